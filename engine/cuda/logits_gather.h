// Whole rows of logits from the pieces that the ranks have.
#pragma once

#include <cstdint>
#include <functional>

#include "device/buffer.h"
#include "device/context.h"
#include "device/tensor.h"
#include "model/shard_plan.h"

namespace moba::cuda {

// Every rank has one and calls it with its pieces of the same rows. Issued on the context's stream.
// Of one rank: the pieces are the rows. Not thread-safe.
class LogitsGather {
 public:
  // Rows of `vocab_size`, of which batches have at most max_rows.
  LogitsGather(DeviceContext& context, const ShardPlan& shard, std::int64_t vocab_size,
               std::int64_t max_rows);

  // Calls take(first, rows) for parts of the rows in turn, [count, vocab_size] float32 each: row i
  // of them is row first + i of `pieces`, [n, shard.vocab.size()]. They may be changed, and last
  // until the next part.
  using Take = std::function<void(std::int64_t first, const TensorView& rows)>;
  void gather(const TensorView& pieces, const Take& take);

 private:
  void gather_part(const TensorView& pieces, const TensorView& rows);

  DeviceContext& context_;
  ShardPlan shard_;
  std::int64_t vocab_size_;
  std::int64_t part_rows_;  // at a time
  Buffer packed_;    // [part_rows, shard.vocab_stride] float32, of a rank whose piece is shorter
  Buffer gathered_;  // [ranks, part_rows, shard.vocab_stride]
  Buffer rows_;      // [part_rows, vocab_size]
};

}  // namespace moba::cuda
