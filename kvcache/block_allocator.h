// Hands out the pages of the KV cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace moba {

// Ids only: knows nothing of what a page holds or where it lies. Not thread-safe (the scheduler
// owns it).
class BlockAllocator {
 public:
  explicit BlockAllocator(std::int32_t num_blocks);

  std::int32_t num_blocks() const { return static_cast<std::int32_t>(in_use_.size()); }
  std::int32_t num_free() const { return static_cast<std::int32_t>(free_.size()); }

  // Appends `count` pages to `table`, all or none: false and nothing changed if fewer are free.
  bool allocate(std::int32_t count, std::vector<std::int32_t>& table);

  // Gives pages back. Throws Error for an id that is out of range or already free; the ids after it
  // in the list are then freed.
  void free(const std::vector<std::int32_t>& blocks);

 private:
  std::vector<std::int32_t>
      free_;  // a stack: the page freed last is used first, while its lines are still in a cache
  std::vector<bool> in_use_;
};

}  // namespace moba
