#include "engine/device_setup.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "device/check.h"
#include "device/copy.h"
#include "device/device_info.h"
#include "engine/host_memory.h"

namespace moba {
namespace {

constexpr int kCpuBatchedTokens = 2048;
constexpr int kCpuSeqs = 16;
constexpr int kGpuBatchedTokens = 8192;
constexpr int kGpuSeqs = 256;
constexpr std::string_view kGpuPrefix = "cuda:";
// Rows of logits in the profiling step.
constexpr std::int64_t kProfiledLogitRows = 16;

Device gpu(int index) {
  std::string why_none;
  MOBA_CHECK(num_cuda_devices(&why_none) > 0, "device cuda: ", why_none);
  const Device device{DeviceType::kCuda, index};
  device_info(device);  // throws if it cannot be used
  return device;
}

}  // namespace

Device choose_device(const std::string& text) {
  if (text == "cpu") return {};
  if (text == "auto") return num_cuda_devices() > 0 ? gpu(0) : Device{};
  if (text == "cuda") return gpu(0);
  int index = -1;
  if (text.compare(0, kGpuPrefix.size(), kGpuPrefix) == 0) {
    const char* const begin = text.data() + kGpuPrefix.size();
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, index);
    if (error != std::errc() || stop != end) index = -1;
  }
  MOBA_CHECK(index >= 0, "device is '", text, "'; it must be auto, cpu, cuda or cuda:N");
  return gpu(index);
}

SchedulerOptions scheduler_defaults(const SchedulerOptions& asked, Device device) {
  const bool on_cpu = device.type == DeviceType::kCpu;
  SchedulerOptions options = asked;
  if (options.max_num_batched_tokens == 0) {
    options.max_num_batched_tokens = on_cpu ? kCpuBatchedTokens : kGpuBatchedTokens;
  }
  if (options.max_num_seqs == 0) options.max_num_seqs = on_cpu ? kCpuSeqs : kGpuSeqs;
  return options;
}

std::int64_t usable_memory(const DeviceContext& context, double utilization, std::int64_t taken) {
  if (context.device().type == DeviceType::kCpu) return available_host_memory();
  const DeviceMemory memory = device_memory(context.device());
  const auto spared =
      static_cast<std::int64_t>((1.0 - utilization) * static_cast<double>(memory.total_bytes));
  return std::max<std::int64_t>(0, memory.free_bytes + taken - spared);
}

void run_profiling_step(DeviceContext& context, CausalLM& model, AttentionBackend& attention,
                        const KvPoolConfig& pool_config, const AttentionConfig& limits,
                        int moba_topk) {
  if (context.device().type == DeviceType::kCpu) return;
  const std::int64_t num_tokens =
      std::min<std::int64_t>(limits.max_num_batched_tokens, limits.max_model_len);
  const std::int64_t num_pages = (num_tokens + pool_config.block_size - 1) / pool_config.block_size;
  const int pages_per_block = pool_config.moba_block_size / pool_config.block_size;
  // One page stands for all: nothing is stored, and what is read does not matter.
  KvPool pool(context.device(), pool_config, 1);
  fill_bytes(
      context,
      TensorView(pool.layer(0).k, DType::kBFloat16, {pool.num_bytes() / 2}, context.device()), 0);
  const std::vector<std::int64_t> slots(static_cast<std::size_t>(num_tokens), -1);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(num_tokens), 0);
  const std::vector<std::int32_t> table(static_cast<std::size_t>(num_pages), 0);

  const auto on_device = [&](const void* data, DType dtype, const Shape& shape) {
    Tensor tensor(dtype, shape, context.device(), "profiling step");
    copy_to_device(context, TensorView(const_cast<void*>(data), dtype, shape), tensor);
    context.synchronize();
    return tensor;
  };
  const Tensor device_slots = on_device(slots.data(), DType::kInt64, {num_tokens});
  const Tensor device_positions = on_device(positions.data(), DType::kInt32, {num_tokens});
  const Tensor device_ids = on_device(ids.data(), DType::kInt32, {num_tokens});
  const TensorView no_blocks(nullptr, DType::kInt32, {0, pages_per_block}, context.device());

  const std::int64_t logit_rows = std::min(num_tokens, kProfiledLogitRows);
  const Tensor logits(DType::kFloat32, {logit_rows, model.shard().vocab.size()}, context.device(),
                      "profiling step");
  std::vector<int> kinds = {0};
  if (moba_topk > 0) kinds.push_back(moba_topk);
  // A prompt as long as a step, then one generated token.
  for (const int topk : kinds) {
    for (const std::int64_t count : {num_tokens, std::int64_t{1}}) {
      const std::vector<std::int32_t> cu_seqlens = {0, static_cast<std::int32_t>(count)};
      const std::vector<std::int32_t> seq_lens = {static_cast<std::int32_t>(num_tokens)};
      const std::vector<std::int32_t> topks(static_cast<std::size_t>(limits.num_layers), topk);
      AttentionMetadata metadata;
      metadata.num_seqs = 1;
      metadata.cu_seqlens_q = cu_seqlens;
      metadata.seq_lens = seq_lens;
      metadata.block_tables = table;
      metadata.max_blocks_per_seq = static_cast<int>(num_pages);
      metadata.moba_topk = topks;
      attention.plan(metadata);
      ForwardBatch batch;
      batch.token_ids = device_ids.view().rows(0, count);
      batch.positions = device_positions.view().rows(0, count);
      batch.slots = {device_slots.view().rows(0, count), no_blocks};
      const TensorView hidden = model.forward(batch, pool, attention);
      const std::int64_t rows = std::min(count, logit_rows);
      model.compute_logits(hidden.rows(0, rows), logits.view().rows(0, rows));
      context.synchronize();
    }
  }
  attention.take_stats();
}

}  // namespace moba
