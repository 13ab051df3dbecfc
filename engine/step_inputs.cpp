#include "engine/step_inputs.h"

#include <cstring>

#include "device/check.h"
#include "device/copy.h"

namespace moba {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// A view of host values, which are only read.
template <typename T>
TensorView host_view(DType dtype, std::span<const T> values, const Shape& shape) {
  return {const_cast<T*>(values.data()), dtype, shape};
}

}  // namespace

StepInputs::StepInputs(DeviceContext& context, const Limits& limits)
    : context_(context), limits_(limits) {
  if (context.device().type == DeviceType::kCpu) return;
  const auto tokens = static_cast<std::size_t>(limits.max_num_batched_tokens);
  const auto seqs = static_cast<std::size_t>(limits.max_num_seqs);
  // A token completes a block at most; a step that decodes has a row for each.
  const std::size_t bytes =
      align(tokens * sizeof(std::int64_t)) + 2 * align(tokens * sizeof(std::int32_t)) +
      align(tokens * static_cast<std::size_t>(limits.pages_per_moba_block) * sizeof(std::int32_t)) +
      align(seqs * sizeof(std::int32_t));
  host_ = Buffer::host_for(context.device(), bytes, "step inputs");
  device_ = Buffer(context.device(), bytes, "step inputs");
}

template <typename T>
TensorView StepInputs::put(DType dtype, std::span<const T> values, const Shape& shape) {
  if (context_.device().type == DeviceType::kCpu) return host_view(dtype, values, shape);
  MOBA_CHECK(used_ + values.size_bytes() <= host_.size(), "step inputs: a batch beyond ",
             limits_.max_num_batched_tokens, " tokens and ", limits_.max_num_seqs, " sequences");
  std::memcpy(static_cast<std::byte*>(host_.data()) + used_, values.data(), values.size_bytes());
  const TensorView view(static_cast<std::byte*>(device_.data()) + used_, dtype, shape,
                        context_.device());
  used_ = align(used_ + values.size_bytes());
  return view;
}

ForwardBatch StepInputs::upload(const Batch& batch) {
  used_ = 0;
  const KvWritePlan& plan = batch.kv_write_plan;
  const auto num_tokens = static_cast<std::int64_t>(batch.token_ids.size());
  const auto pages = static_cast<std::int64_t>(limits_.pages_per_moba_block);
  const auto num_completed = static_cast<std::int64_t>(plan.completed_blocks.size()) / pages;
  row_indices_.clear();
  for (const SampleRow& row : batch.sample_rows) row_indices_.push_back(row.row);

  ForwardBatch forward;
  forward.slots.slot_mapping = put<std::int64_t>(DType::kInt64, plan.slot_mapping, {num_tokens});
  forward.token_ids = put<std::int32_t>(DType::kInt32, batch.token_ids, {num_tokens});
  forward.positions = put<std::int32_t>(DType::kInt32, batch.positions, {num_tokens});
  sample_rows_ = put<std::int32_t>(DType::kInt32, row_indices_,
                                   {static_cast<std::int64_t>(row_indices_.size())});
  forward.slots.completed_blocks =
      put<std::int32_t>(DType::kInt32, plan.completed_blocks, {num_completed, pages});
  forward.host_positions = batch.positions;
  if (used_ > 0) {
    const Shape words{static_cast<std::int64_t>(used_ / sizeof(std::int32_t))};
    copy_to_device(context_, TensorView(host_.data(), DType::kInt32, words),
                   TensorView(device_.data(), DType::kInt32, words, context_.device()));
  }
  return forward;
}

}  // namespace moba
