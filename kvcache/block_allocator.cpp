#include "kvcache/block_allocator.h"

#include <cstddef>

#include "device/check.h"

namespace moba {

BlockAllocator::BlockAllocator(std::int32_t num_blocks)
    : in_use_(static_cast<std::size_t>(num_blocks < 0 ? 0 : num_blocks), false) {
  MOBA_CHECK(num_blocks >= 0, "a cache of ", num_blocks, " pages");
  free_.reserve(in_use_.size());
  for (std::int32_t id = num_blocks - 1; id >= 0; --id) free_.push_back(id);
}

bool BlockAllocator::allocate(std::int32_t count, std::vector<std::int32_t>& table) {
  MOBA_CHECK(count >= 0, "allocation of ", count, " pages");
  if (count > num_free()) return false;
  table.reserve(table.size() + static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t id = free_.back();
    free_.pop_back();
    in_use_[static_cast<std::size_t>(id)] = true;
    table.push_back(id);
  }
  return true;
}

void BlockAllocator::free(const std::vector<std::int32_t>& blocks) {
  // Backwards, so that an allocation of the same size gets the pages in the same order.
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    const std::int32_t id = *it;
    MOBA_CHECK(id >= 0 && id < num_blocks(), "free of page ", id, " of ", num_blocks());
    MOBA_CHECK(in_use_[static_cast<std::size_t>(id)], "page ", id, " freed twice");
    in_use_[static_cast<std::size_t>(id)] = false;
    free_.push_back(id);
  }
}

}  // namespace moba
