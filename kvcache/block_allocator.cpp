#include "kvcache/block_allocator.h"

#include <algorithm>
#include <cstddef>

#include "device/check.h"

namespace moba {

BlockAllocator::BlockAllocator(std::int32_t num_blocks)
    : num_holders_(static_cast<std::size_t>(num_blocks < 0 ? 0 : num_blocks), 0) {
  MOBA_CHECK(num_blocks >= 0, "a cache of ", num_blocks, " pages");
  free_.reserve(num_holders_.size());
  reset();
}

void BlockAllocator::reset() {
  free_.clear();
  for (std::int32_t id = num_blocks() - 1; id >= 0; --id) free_.push_back(id);
  std::fill(num_holders_.begin(), num_holders_.end(), 0);
}

bool BlockAllocator::allocate(std::int32_t count, std::vector<std::int32_t>& table) {
  MOBA_CHECK(count >= 0, "allocation of ", count, " pages");
  if (count > num_free()) return false;
  table.reserve(table.size() + static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int32_t id = free_.back();
    free_.pop_back();
    num_holders_[static_cast<std::size_t>(id)] = 1;
    table.push_back(id);
  }
  return true;
}

void BlockAllocator::add_holder(std::int32_t block) {
  MOBA_CHECK(block >= 0 && block < num_blocks() && num_holders(block) > 0, "page ", block, " of ",
             num_blocks(), " is not in use");
  ++num_holders_[static_cast<std::size_t>(block)];
}

void BlockAllocator::free(std::int32_t block) {
  MOBA_CHECK(block >= 0 && block < num_blocks(), "free of page ", block, " of ", num_blocks());
  std::int32_t& holders = num_holders_[static_cast<std::size_t>(block)];
  MOBA_CHECK(holders > 0, "page ", block, " freed twice");
  if (--holders == 0) free_.push_back(block);
}

void BlockAllocator::free(const std::vector<std::int32_t>& blocks) {
  // Backwards, so that an allocation of the same size gets the pages in the same order.
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) free(*it);
}

}  // namespace moba
