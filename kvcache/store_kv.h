// Writes new keys and values into the paged cache and computes the centroids of MoBA blocks that
// fill up.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "kvcache/paged_kv_view.h"

namespace moba {

// Where a batch's new tokens go, the same for every layer. Made once a batch on the host.
struct KvWritePlan {
  // [num_tokens]: page * block_size + offset in the page; negative: the token is padding and is not
  // stored.
  std::vector<std::int64_t> slot_mapping;
  // [num_completed, pages_per_moba_block]: the pages of every MoBA block whose last token is in
  // this batch.
  std::vector<std::int32_t> completed_blocks;

  void clear();
  // Adds the tokens at positions [first, first + count) of a sequence with that block table (page
  // ids in logical order, long enough for them). Throws Error if the table is too short.
  void append(std::span<const std::int32_t> block_table, std::int64_t first, std::int64_t count,
              int block_size, int moba_block_size);
};

// The same as operations take it: memory of the device. Borrowed.
struct KvWriteSlots {
  TensorView slot_mapping;  // [num_tokens] int64
  // [num_completed, pages_per_moba_block] int32. A block whose last page is negative is padding.
  TensorView completed_blocks;
  // Decode: no two tokens are of one sequence, and completed_blocks has a row for each token: the
  // block that this token fills, or padding. Only the CUDA backend makes use of it.
  bool one_per_token = false;
};

// Views of the plan's own arrays, for a device that shares the host's memory.
KvWriteSlots slots_of(const KvWritePlan& plan, int pages_per_moba_block);

// Throws Error for slots of the wrong shapes, dtypes or device.
void check_slots(const DeviceContext& context, const KvWriteSlots& slots, const PagedKvView& cache);

// Stores k and v [num_tokens, num_kv_heads, head_dim] (dtype of the cache) by their slots, then
// writes the centroid of each completed block: the mean over its keys as stored, accumulated in
// float32 in the order of positions, rounded to the cache's dtype. So a centroid does not depend on
// how the tokens came. Slots of a batch must be distinct and in the cache. Throws Error for shapes
// that do not fit.
void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache);

// The same by a plan on the host. On a CUDA device it makes a copy there and waits for the end: for
// tests and tools.
void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWritePlan& plan, const PagedKvView& cache);

}  // namespace moba
