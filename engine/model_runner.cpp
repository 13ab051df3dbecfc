#include "engine/model_runner.h"

#include <algorithm>
#include <span>
#include <utility>

#include "device/check.h"
#include "device/ops.h"
#include "kvcache/copy_pages.h"

namespace moba {
namespace {

// Rows of logits computed together: as many as fit in this, and no fewer or more than keep the
// product with the vocabulary efficient.
constexpr std::int64_t kLogitsBytes = std::int64_t{32} << 20;
constexpr std::int64_t kMinLogitRows = 16;
constexpr std::int64_t kMaxLogitRows = 256;

std::int64_t num_logit_rows(const ModelConfig& config, std::int64_t max_num_batched_tokens) {
  const std::int64_t row_bytes = config.vocab_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t rows = std::clamp(kLogitsBytes / row_bytes, kMinLogitRows, kMaxLogitRows);
  return std::min(rows, max_num_batched_tokens);
}

}  // namespace

std::int64_t ModelRunner::logits_bytes(const ModelConfig& config, DType dtype,
                                       std::int64_t max_num_batched_tokens) {
  const std::int64_t rows = num_logit_rows(config, max_num_batched_tokens);
  return rows * (config.vocab_size * static_cast<std::int64_t>(sizeof(float)) +
                 config.hidden_size * static_cast<std::int64_t>(dtype_size(dtype)) +
                 static_cast<std::int64_t>(sizeof(std::int32_t)));
}

ModelRunner::ModelRunner(DeviceContext& context, std::unique_ptr<CausalLM> model,
                         std::unique_ptr<AttentionBackend> attention, std::unique_ptr<KvPool> cache,
                         std::int64_t max_num_batched_tokens)
    : context_(context),
      model_(std::move(model)),
      attention_(std::move(attention)),
      cache_(std::move(cache)),
      logit_rows_(num_logit_rows(model_->config(), max_num_batched_tokens)),
      logits_(DType::kFloat32, {logit_rows_, model_->config().vocab_size}, context.device(),
              "logits"),
      gathered_(cache_->config().dtype, {logit_rows_, model_->config().hidden_size},
                context.device(), "gathered rows"),
      gather_indices_(DType::kInt32, {logit_rows_}, context.device(), "gathered rows"),
      samplers_(static_cast<std::size_t>(context.pool().num_threads())),
      logprob_workspaces_(samplers_.size()) {}

StepResult& ModelRunner::run(const Batch& batch) {
  // The arrays are only read; a view does not say so.
  const auto view = [&](const std::vector<std::int32_t>& values) {
    return TensorView(const_cast<std::int32_t*>(values.data()), DType::kInt32,
                      {static_cast<std::int64_t>(values.size())}, context_.device());
  };
  ForwardBatch forward;
  forward.token_ids = view(batch.token_ids);
  forward.positions = view(batch.positions);
  forward.kv_write_plan = &batch.kv_write_plan;
  copy_pages(context_, batch.page_copies, *cache_);
  attention_->plan(batch.attention_metadata());
  const TensorView hidden = model_->forward(forward, *cache_, *attention_);

  compute_prompt_logprobs(batch, hidden);
  sample(batch, hidden);
  return result_;
}

TensorView ModelRunner::sample_hidden(const Batch& batch, const TensorView& hidden,
                                      std::int64_t first, std::int64_t count) {
  const auto row = [&](std::int64_t i) {
    return batch.sample_rows[static_cast<std::size_t>(first + i)].row;
  };
  bool neighbours = true;
  for (std::int64_t i = 1; i < count; ++i) neighbours = neighbours && row(i) == row(0) + i;
  if (neighbours) return hidden.rows(row(0), row(0) + count);
  const TensorView indices = gather_indices_.view().rows(0, count);
  for (std::int64_t i = 0; i < count; ++i) indices.data<std::int32_t>()[i] = row(i);
  const TensorView out = gathered_.view().rows(0, count);
  gather_rows(context_, hidden, indices, out);
  return out;
}

void ModelRunner::sample(const Batch& batch, const TensorView& hidden) {
  const auto num_rows = static_cast<std::int64_t>(batch.sample_rows.size());
  const auto vocab_size = static_cast<std::size_t>(model_->config().vocab_size);
  result_.samples.clear();
  result_.samples.resize(batch.sample_rows.size());
  for (std::int64_t first = 0; first < num_rows; first += logit_rows_) {
    const std::int64_t count = std::min(logit_rows_, num_rows - first);
    const TensorView logits = logits_.view().rows(0, count);
    model_->compute_logits(sample_hidden(batch, hidden, first, count), logits);
    float* const data = logits.data<float>();
    context_.pool().parallel_for(count, [&](std::int64_t i, int thread) {
      const auto index = static_cast<std::size_t>(first + i);
      const Sequence& sequence = *batch.sample_rows[index].sequence;
      StepResult::Sample& sample = result_.samples[index];
      try {
        sample.token = samplers_[static_cast<std::size_t>(thread)].sample(
            {data + static_cast<std::size_t>(i) * vocab_size, vocab_size}, sequence.sampling,
            batch.sample_rows[index].position);
      } catch (const Error& error) {
        sample.error = error.what();
      }
    });
  }
}

void ModelRunner::compute_prompt_logprobs(const Batch& batch, const TensorView& hidden) {
  const auto vocab_size = static_cast<std::size_t>(model_->config().vocab_size);
  result_.prompt_logprobs.clear();
  result_.prompt_logprobs.resize(batch.prompt_logprob_rows.size());
  result_.prompt_logprob_errors.assign(batch.prompt_logprob_rows.size(), {});
  for (std::size_t r = 0; r < batch.prompt_logprob_rows.size(); ++r) {
    const PromptLogprobRows& rows = batch.prompt_logprob_rows[r];
    std::vector<TokenLogprob>& out = result_.prompt_logprobs[r];
    out.resize(static_cast<std::size_t>(rows.count));
    try {
      for (std::int64_t first = 0; first < rows.count; first += logit_rows_) {
        const std::int64_t count = std::min(logit_rows_, rows.count - first);
        const TensorView logits = logits_.view().rows(0, count);
        model_->compute_logits(hidden.rows(rows.row + first, rows.row + first + count), logits);
        const float* const data = logits.data<float>();
        context_.pool().parallel_for(count, [&](std::int64_t i, int thread) {
          const auto target = static_cast<std::size_t>(rows.first_target + first + i);
          out[static_cast<std::size_t>(first + i)] =
              compute_logprob({data + static_cast<std::size_t>(i) * vocab_size, vocab_size},
                              rows.sequence->tokens[target], rows.sequence->num_top_prompt_logprobs,
                              logprob_workspaces_[static_cast<std::size_t>(thread)]);
        });
      }
    } catch (const Error& error) {
      result_.prompt_logprob_errors[r] = error.what();
    }
  }
}

}  // namespace moba
