#include "engine/model_runner.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "device/check.h"
#include "device/ops.h"
#include "engine/sharded_token_sampler.h"
#include "kvcache/copy_pages.h"

namespace moba {
namespace {

// Rows of logits computed together: as many as fit in this, and no fewer or more than keep the
// product with the vocabulary efficient. A GPU does all sequences of a step at once.
constexpr std::int64_t kCpuLogitsBytes = std::int64_t{32} << 20;
constexpr std::int64_t kGpuLogitsBytes = std::int64_t{256} << 20;
constexpr std::int64_t kMinLogitRows = 16;
constexpr std::int64_t kMaxLogitRows = 256;

std::int64_t num_logit_rows(const ModelConfig& config, const SchedulerOptions& scheduler,
                            Device device) {
  const std::int64_t bytes = device.type == DeviceType::kCpu ? kCpuLogitsBytes : kGpuLogitsBytes;
  const std::int64_t row_bytes = config.vocab_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t rows = std::clamp(bytes / row_bytes, kMinLogitRows, kMaxLogitRows);
  return std::min<std::int64_t>(rows, scheduler.max_num_batched_tokens);
}

StepInputs::Limits input_limits(const KvPoolConfig& pool, const SchedulerOptions& scheduler) {
  return {scheduler.max_num_batched_tokens,
          std::min(scheduler.max_num_batched_tokens, scheduler.max_num_seqs), pool.block_size,
          pool.moba_block_size};
}

TokenSamplerConfig sampler_config(const ModelConfig& config, const SchedulerOptions& scheduler,
                                  Device device) {
  const std::int64_t rows = num_logit_rows(config, scheduler, device);
  return {config.vocab_size, rows, std::max<std::int64_t>(rows, scheduler.max_num_seqs), {}};
}

std::unique_ptr<TokenSampler> make_sampler(DeviceContext& context, const CausalLM& model,
                                           const SchedulerOptions& scheduler) {
  TokenSamplerConfig config = sampler_config(model.config(), scheduler, context.device());
  config.shard = model.shard();
  if (context.device().type == DeviceType::kCpu && config.shard.num_ranks > 1) {
    return create_sharded_token_sampler(context, config, config.shard);
  }
  return create_token_sampler(context, config);
}

}  // namespace

std::int64_t ModelRunner::workspace_bytes(const ModelConfig& config, const KvPoolConfig& pool,
                                          const SchedulerOptions& scheduler, Device device) {
  const std::int64_t rows = num_logit_rows(config, scheduler, device);
  const std::int64_t logits =
      rows * (config.vocab_size * static_cast<std::int64_t>(sizeof(float)) +
              config.hidden_size * static_cast<std::int64_t>(dtype_size(pool.dtype)));
  return logits + token_sampler_bytes(device, sampler_config(config, scheduler, device)) +
         StepInputs::device_bytes(input_limits(pool, scheduler), device);
}

ModelRunner::ModelRunner(DeviceContext& context, std::unique_ptr<CausalLM> model,
                         std::unique_ptr<AttentionBackend> attention, std::unique_ptr<KvPool> cache,
                         const SchedulerOptions& scheduler, bool decode_graphs)
    : context_(context),
      model_(std::move(model)),
      attention_(std::move(attention)),
      cache_(std::move(cache)),
      logit_rows_(num_logit_rows(model_->config(), scheduler, context.device())),
      logits_(DType::kFloat32, {logit_rows_, model_->shard().vocab.size()}, context.device(),
              "logits"),
      gathered_(cache_->config().dtype, {logit_rows_, model_->config().hidden_size},
                context.device(), "gathered rows"),
      inputs_(context, input_limits(cache_->config(), scheduler)),
      sampler_(make_sampler(context, *model_, scheduler)),
      graphs_(context, decode_graphs && context.device().type == DeviceType::kCuda
                           ? std::min(scheduler.max_num_batched_tokens, scheduler.max_num_seqs)
                           : 0) {}

ModelRunner::~ModelRunner() {
  try {
    context_.make_current();
    context_.synchronize();
  } catch (const Error&) {
    // Nobody is left to be told.
  }
}

bool ModelRunner::is_asynchronous() const { return context_.device().type != DeviceType::kCpu; }

StepResult& ModelRunner::run(const Batch& batch) {
  launch(batch);
  return collect();
}

void ModelRunner::launch(const Batch& batch) {
  context_.make_current();
  const int slot = static_cast<int>(num_launched_ % flights_.size());
  Flight& flight = flights_[static_cast<std::size_t>(slot)];
  flight.result.prompt_logprobs.clear();
  flight.result.prompt_logprob_errors.clear();
  copy_pages(context_, batch.page_copies, *cache_);
  const int size = graph_size(batch);
  if (size > 0) {
    launch_graph(batch, size, slot);
  } else {
    launch_forward(batch, slot);
  }
  ++num_launched_;
}

StepResult& ModelRunner::collect() {
  const auto slot = static_cast<std::size_t>(num_collected_++ % flights_.size());
  StepResult& result = flights_[slot].result;
  sampler_->collect(static_cast<int>(slot), result.samples);
  return result;
}

void ModelRunner::launch_forward(const Batch& batch, int slot) {
  attention_->plan(batch.attention_metadata());
  const StepArrays arrays = inputs_.upload(batch);
  if (!batch.token_sources.empty()) {
    sampler_->resolve(arrays.token_sources, arrays.forward.token_ids);
  }
  const TensorView hidden = model_->forward(arrays.forward, *cache_, *attention_);
  compute_prompt_logprobs(batch, hidden, slot);
  sampler_->launch(slot, batch.sample_rows, [&](std::int64_t first, std::int64_t count) {
    const TensorView logits = logits_.view().rows(0, count);
    model_->compute_logits(sample_hidden(batch, hidden, arrays.sample_rows, first, count), logits);
    return logits;
  });
}

int ModelRunner::graph_size(const Batch& batch) const {
  const auto num_seqs = static_cast<std::size_t>(batch.num_seqs);
  if (batch.num_tokens != batch.num_seqs || batch.sample_rows.size() != num_seqs ||
      !batch.prompt_logprob_rows.empty()) {
    return 0;
  }
  for (std::size_t i = 0; i < num_seqs; ++i) {
    if (batch.sample_rows[i].row != static_cast<std::int32_t>(i)) return 0;
  }
  const int size = graphs_.padded_size(batch.num_seqs);
  return size <= logit_rows_ ? size : 0;
}

// Padding attends to a key of page 0, which exists; nobody reads what comes of it.
AttentionMetadata ModelRunner::pad(const Batch& batch, int size) {
  AttentionMetadata metadata = batch.attention_metadata();
  if (size == batch.num_seqs) return metadata;
  const auto num_seqs = static_cast<std::size_t>(batch.num_seqs);
  const auto padded = static_cast<std::size_t>(size);
  padded_.cu_seqlens_q.resize(padded + 1);
  std::iota(padded_.cu_seqlens_q.begin(), padded_.cu_seqlens_q.end(), 0);
  padded_.seq_lens.assign(batch.seq_lens.begin(), batch.seq_lens.end());
  padded_.seq_lens.resize(padded, 1);
  const auto width = static_cast<std::size_t>(batch.max_blocks_per_seq);
  padded_.block_tables.resize(padded * width);
  const auto end =
      std::copy(batch.block_tables.begin(), batch.block_tables.end(), padded_.block_tables.begin());
  std::fill(end, padded_.block_tables.end(), 0);
  const std::size_t num_layers = batch.moba_topk.size() / num_seqs;
  padded_.moba_topk.resize(num_layers * padded);
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    const auto from = batch.moba_topk.begin() + static_cast<std::ptrdiff_t>(layer * num_seqs);
    const auto to = padded_.moba_topk.begin() + static_cast<std::ptrdiff_t>(layer * padded);
    std::copy(from, from + static_cast<std::ptrdiff_t>(num_seqs), to);
    // Of a kind that the layer has anyway.
    std::fill(to + static_cast<std::ptrdiff_t>(num_seqs), to + static_cast<std::ptrdiff_t>(padded),
              *from);
  }
  metadata.num_seqs = size;
  metadata.cu_seqlens_q = padded_.cu_seqlens_q;
  metadata.seq_lens = padded_.seq_lens;
  metadata.block_tables = padded_.block_tables;
  metadata.moba_topk = padded_.moba_topk;
  return metadata;
}

void ModelRunner::launch_graph(const Batch& batch, int size, int slot) {
  attention_->plan(pad(batch, size));
  const StepArrays arrays = inputs_.upload_decode(batch, size);
  const TensorView logits = logits_.view().rows(0, size);
  const bool takes_largest = sampler_->takes_largest(batch.sample_rows);
  const auto issue = [&] {
    sampler_->resolve(arrays.token_sources, arrays.forward.token_ids);
    model_->compute_logits(model_->forward(arrays.forward, *cache_, *attention_), logits);
    if (takes_largest) sampler_->choose_largest(logits);
  };
  const std::optional<std::uint64_t> key = attention_->capture_key();
  if (key) {
    graphs_.run(size, takes_largest ? ~*key : *key, issue);
  } else {
    issue();
  }
  if (takes_largest) return sampler_->send_largest(slot, batch.sample_rows.size());
  sampler_->launch(slot, batch.sample_rows, [&](std::int64_t first, std::int64_t count) {
    return logits.rows(first, first + count);
  });
}

TensorView ModelRunner::sample_hidden(const Batch& batch, const TensorView& hidden,
                                      const TensorView& sample_rows, std::int64_t first,
                                      std::int64_t count) {
  const auto row = [&](std::int64_t i) {
    return batch.sample_rows[static_cast<std::size_t>(first + i)].row;
  };
  bool neighbours = true;
  for (std::int64_t i = 1; i < count; ++i) neighbours = neighbours && row(i) == row(0) + i;
  if (neighbours) return hidden.rows(row(0), row(0) + count);
  const TensorView out = gathered_.view().rows(0, count);
  gather_rows(context_, hidden, sample_rows.rows(first, first + count), out);
  return out;
}

void ModelRunner::compute_prompt_logprobs(const Batch& batch, const TensorView& hidden, int slot) {
  StepResult& result = flights_[static_cast<std::size_t>(slot)].result;
  result.prompt_logprobs.resize(batch.prompt_logprob_rows.size());
  result.prompt_logprob_errors.resize(batch.prompt_logprob_rows.size());
  for (std::size_t r = 0; r < batch.prompt_logprob_rows.size(); ++r) {
    const PromptLogprobRows& rows = batch.prompt_logprob_rows[r];
    const Sequence& sequence = *rows.sequence;
    std::vector<TokenLogprob>& out = result.prompt_logprobs[r];
    out.resize(static_cast<std::size_t>(rows.count));
    try {
      for (std::int64_t first = 0; first < rows.count; first += logit_rows_) {
        const std::int64_t count = std::min(logit_rows_, rows.count - first);
        const TensorView logits = logits_.view().rows(0, count);
        model_->compute_logits(hidden.rows(rows.row + first, rows.row + first + count), logits);
        const auto size = static_cast<std::size_t>(count);
        const auto target = static_cast<std::size_t>(rows.first_target + first);
        sampler_->score(slot, logits, std::span(sequence.tokens).subspan(target, size),
                        sequence.num_top_prompt_logprobs,
                        std::span(out).subspan(static_cast<std::size_t>(first), size));
      }
    } catch (const Error& error) {
      result.prompt_logprob_errors[r] = error.what();
    }
  }
}

}  // namespace moba
