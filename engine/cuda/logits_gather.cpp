#include "engine/cuda/logits_gather.h"

#include <algorithm>
#include <cstddef>

#include "device/collectives.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"

namespace moba::cuda {
namespace {

// Rows gathered at a time: an eighth of those that a rank has memory for, so that the room they
// take on every rank is less than what it saves by holding a piece of its logits.
constexpr std::int64_t kPart = 8;

std::size_t float_bytes(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

LogitsGather::LogitsGather(DeviceContext& context, const ShardPlan& shard, std::int64_t vocab_size,
                           std::int64_t max_rows)
    : context_(context),
      shard_(shard),
      vocab_size_(vocab_size),
      part_rows_(std::max<std::int64_t>(1, max_rows / kPart)) {
  if (shard.num_ranks == 1) return;
  const Device device = context.device();
  const std::size_t part = float_bytes(part_rows_ * shard.vocab_stride);
  packed_ = Buffer(device, part, "logits");
  gathered_ = Buffer(device, part * static_cast<std::size_t>(shard.num_ranks), "logits");
  rows_ = Buffer(device, float_bytes(part_rows_ * vocab_size), "logits");
}

void LogitsGather::gather(const TensorView& pieces, const Take& take) {
  if (shard_.num_ranks == 1) return take(0, pieces);
  const std::int64_t num_rows = pieces.dim(0);
  for (std::int64_t first = 0; first < num_rows; first += part_rows_) {
    const std::int64_t count = std::min(part_rows_, num_rows - first);
    const TensorView rows(rows_.data(), DType::kFloat32, {count, vocab_size_}, context_.device());
    gather_part(pieces.rows(first, first + count), rows);
    take(first, rows);
  }
}

void LogitsGather::gather_part(const TensorView& pieces, const TensorView& rows) {
  const cudaStream_t stream = context_.cuda()->stream();
  const std::int64_t count = pieces.dim(0);
  const std::int64_t stride = shard_.vocab_stride;
  const auto copy = [&](void* to, std::int64_t to_stride, const void* from,
                        std::int64_t from_stride, std::int64_t width) {
    MOBA_CUDA_CHECK(cudaMemcpy2DAsync(to, float_bytes(to_stride), from, float_bytes(from_stride),
                                      float_bytes(width), static_cast<std::size_t>(count),
                                      cudaMemcpyDeviceToDevice, stream));
  };
  // Pieces travel in one size, that of the longest.
  TensorView mine = pieces;
  if (shard_.vocab.size() != stride) {
    mine = TensorView(packed_.data(), DType::kFloat32, {count, stride}, context_.device());
    copy(mine.raw(), stride, pieces.raw(), shard_.vocab.size(), shard_.vocab.size());
  }
  const TensorView all(gathered_.data(), DType::kFloat32, {shard_.num_ranks * count, stride},
                       context_.device());
  context_.communicator().all_gather(mine, all);
  for (std::int64_t rank = 0; rank < shard_.num_ranks; ++rank) {
    const std::int64_t begin = rank * stride;
    copy(rows.data<float>() + begin, vocab_size_, all.data<float>() + rank * count * stride, stride,
         std::min(stride, vocab_size_ - begin));
  }
}

}  // namespace moba::cuda
