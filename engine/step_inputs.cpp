#include "engine/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "device/check.h"
#include "device/copy.h"

namespace moba {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// slot_mapping, token_ids, positions, token_sources and sample_rows.
std::size_t array_bytes(const StepInputs::Limits& limits) {
  const auto tokens = static_cast<std::size_t>(limits.max_num_batched_tokens);
  const auto seqs = static_cast<std::size_t>(limits.max_num_seqs);
  return align(tokens * sizeof(std::int64_t)) + 3 * align(tokens * sizeof(std::int32_t)) +
         align(seqs * sizeof(std::int32_t));
}

// A sequence completes at most one block more than its tokens fill alone.
std::size_t completed_bytes(const StepInputs::Limits& limits) {
  const std::int64_t pages = limits.max_num_batched_tokens / limits.block_size +
                             limits.max_num_seqs * (limits.moba_block_size / limits.block_size);
  return align(static_cast<std::size_t>(pages) * sizeof(std::int32_t));
}

// A view of the batch's own array, which is only read.
template <typename T>
TensorView host_view(DType dtype, const std::vector<T>& values) {
  return {const_cast<T*>(values.data()), dtype, {static_cast<std::int64_t>(values.size())}};
}

}  // namespace

StepInputs::Staging::Staging(DeviceContext& context, std::size_t bytes, std::size_t completed_bytes)
    : arrays(Buffer::host_for(context.device(), bytes, "step inputs")),
      completed(Buffer::host_for(context.device(), completed_bytes, "step inputs")),
      copied(context) {}

std::int64_t StepInputs::device_bytes(const Limits& limits, Device device) {
  if (device.type == DeviceType::kCpu) return 0;
  return static_cast<std::int64_t>(array_bytes(limits) + completed_bytes(limits));
}

StepInputs::StepInputs(DeviceContext& context, const Limits& limits)
    : context_(context), limits_(limits) {
  if (context.device().type == DeviceType::kCpu) return;
  const std::size_t arrays = array_bytes(limits);
  const std::size_t completed = completed_bytes(limits);
  staging_.reset(new std::array<Staging, 2>{Staging(context, arrays, completed),
                                            Staging(context, arrays, completed)});
  arrays_ = Buffer(context.device(), arrays, "step inputs");
  completed_ = Buffer(context.device(), completed, "step inputs");
}

void StepInputs::begin() {
  current_ = 1 - current_;
  (*staging_)[current_].copied.wait();
  used_ = 0;
}

template <typename T>
std::span<T> StepInputs::put(DType dtype, std::int64_t count, TensorView& view) {
  const Buffer& host = (*staging_)[current_].arrays;
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  MOBA_CHECK(used_ + bytes <= host.size(), "step inputs: a batch beyond ",
             limits_.max_num_batched_tokens, " tokens and ", limits_.max_num_seqs, " sequences");
  auto* const values = reinterpret_cast<T*>(static_cast<std::byte*>(host.data()) + used_);
  view = TensorView(static_cast<std::byte*>(arrays_.data()) + used_, dtype, {count},
                    context_.device());
  used_ = align(used_ + bytes);
  return {values, static_cast<std::size_t>(count)};
}

template <typename T>
void StepInputs::put(DType dtype, const std::vector<T>& values, TensorView& view) {
  const std::span<T> to = put<T>(dtype, static_cast<std::int64_t>(values.size()), view);
  std::copy(values.begin(), values.end(), to.begin());
}

// By a copy of its own, as there seldom are any.
void StepInputs::put_completed(const std::vector<std::int32_t>& blocks, ForwardBatch& forward) {
  const std::int64_t pages = limits_.moba_block_size / limits_.block_size;
  const auto count = static_cast<std::int64_t>(blocks.size());
  const Buffer& host = (*staging_)[current_].completed;
  MOBA_CHECK(blocks.size() * sizeof(std::int32_t) <= host.size(), "step inputs: ", count / pages,
             " completed blocks");
  const TensorView device(completed_.data(), DType::kInt32, {count}, context_.device());
  std::copy(blocks.begin(), blocks.end(), static_cast<std::int32_t*>(host.data()));
  copy_to_device(context_, TensorView(host.data(), DType::kInt32, {count}), device);
  forward.slots.completed_blocks = device.reshape({count / pages, pages});
  num_padding_rows_ = 0;
}

void StepInputs::send() {
  Staging& staging = (*staging_)[current_];
  const Shape words{static_cast<std::int64_t>(used_ / sizeof(std::int32_t))};
  copy_to_device(context_, TensorView(staging.arrays.data(), DType::kInt32, words),
                 TensorView(arrays_.data(), DType::kInt32, words, context_.device()));
  staging.copied.record();
}

StepArrays StepInputs::upload(const Batch& batch) {
  const KvWritePlan& plan = batch.kv_write_plan;
  row_indices_.clear();
  for (const SampleRow& row : batch.sample_rows) row_indices_.push_back(row.row);

  StepArrays arrays;
  ForwardBatch& forward = arrays.forward;
  forward.host_positions = batch.positions;
  if (staging_ == nullptr) {
    forward.token_ids = host_view(DType::kInt32, batch.token_ids);
    forward.positions = host_view(DType::kInt32, batch.positions);
    forward.slots = slots_of(plan, limits_.moba_block_size / limits_.block_size);
    arrays.token_sources = host_view(DType::kInt32, batch.token_sources);
    arrays.sample_rows = host_view(DType::kInt32, row_indices_);
    return arrays;
  }
  begin();
  put(DType::kInt64, plan.slot_mapping, forward.slots.slot_mapping);
  put(DType::kInt32, batch.token_ids, forward.token_ids);
  put(DType::kInt32, batch.positions, forward.positions);
  if (!batch.token_sources.empty()) {
    put(DType::kInt32, batch.token_sources, arrays.token_sources);
  }
  put(DType::kInt32, row_indices_, arrays.sample_rows);
  put_completed(plan.completed_blocks, forward);
  send();
  return arrays;
}

StepArrays StepInputs::upload_decode(const Batch& batch, std::int64_t size) {
  const auto num_tokens = static_cast<std::size_t>(batch.num_tokens);
  MOBA_CHECK(staging_ != nullptr && batch.num_tokens == batch.num_seqs && batch.num_tokens <= size,
             "step inputs: ", batch.num_tokens, " tokens of ", batch.num_seqs,
             " sequences as a decode step of ", size);
  begin();
  StepArrays arrays;
  ForwardBatch& forward = arrays.forward;
  const auto fill = [&](auto values, const auto& from, auto padding) {
    const auto end = std::copy(from.begin(), from.end(), values.begin());
    std::fill(end, values.end(), padding);
  };
  fill(put<std::int64_t>(DType::kInt64, size, forward.slots.slot_mapping),
       batch.kv_write_plan.slot_mapping, std::int64_t{-1});
  fill(put<std::int32_t>(DType::kInt32, size, forward.token_ids), batch.token_ids, 0);
  fill(put<std::int32_t>(DType::kInt32, size, forward.positions), batch.positions, 0);
  fill(put<std::int32_t>(DType::kInt32, size, arrays.token_sources), batch.token_sources, -1);
  forward.host_positions = batch.positions;

  // The plan has the completed blocks only, in the order of their tokens.
  const std::int64_t pages = limits_.moba_block_size / limits_.block_size;
  const std::vector<std::int32_t>& completed = batch.kv_write_plan.completed_blocks;
  if (!completed.empty() || num_padding_rows_ < size) {
    decode_blocks_.assign(static_cast<std::size_t>(size * pages), -1);
    auto next = completed.begin();
    for (std::size_t i = 0; i < num_tokens && next != completed.end(); ++i) {
      if ((batch.positions[i] + 1) % limits_.moba_block_size != 0) continue;
      std::copy(next, next + static_cast<std::ptrdiff_t>(pages),
                decode_blocks_.begin() +
                    static_cast<std::ptrdiff_t>(i) * static_cast<std::ptrdiff_t>(pages));
      next += static_cast<std::ptrdiff_t>(pages);
    }
    put_completed(decode_blocks_, forward);
    if (completed.empty()) num_padding_rows_ = size;
  } else {
    forward.slots.completed_blocks =
        TensorView(completed_.data(), DType::kInt32, {size, pages}, context_.device());
  }
  forward.slots.one_per_token = true;
  send();
  return arrays;
}

}  // namespace moba
