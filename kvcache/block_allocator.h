// Hands out the pages of the KV cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace moba {

// Ids only: knows nothing of what a page holds or where it lies. A page may have several holders;
// it is free when the last has given it back. Not thread-safe (the scheduler owns it).
class BlockAllocator {
 public:
  explicit BlockAllocator(std::int32_t num_blocks);

  std::int32_t num_blocks() const { return static_cast<std::int32_t>(num_holders_.size()); }
  std::int32_t num_free() const { return static_cast<std::int32_t>(free_.size()); }

  // Appends `count` pages to `table`, all or none: false and nothing changed if fewer are free.
  bool allocate(std::int32_t count, std::vector<std::int32_t>& table);

  // One more holder of a page that is in use. Throws Error for one that is not.
  void add_holder(std::int32_t block);
  // 0: the page is free.
  std::int32_t num_holders(std::int32_t block) const {
    return num_holders_[static_cast<std::size_t>(block)];
  }

  // Takes one holder of each page away, last page first. Throws Error for an id that is out of
  // range or already free; the ids after it in the list have then been dealt with.
  void free(const std::vector<std::int32_t>& blocks);
  void free(std::int32_t block);
  // All pages are free, whoever held them. Takes no memory.
  void reset();

 private:
  std::vector<std::int32_t>
      free_;  // a stack: the page freed last is used first, while its lines are still in a cache
  std::vector<std::int32_t> num_holders_;  // [num_blocks]
};

}  // namespace moba
