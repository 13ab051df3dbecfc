#include "engine/model_runner.h"

#include <algorithm>
#include <span>
#include <utility>

#include "device/check.h"
#include "device/copy.h"
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
                         std::int64_t max_num_batched_tokens, std::int64_t max_num_seqs)
    : context_(context),
      model_(std::move(model)),
      attention_(std::move(attention)),
      cache_(std::move(cache)),
      logit_rows_(num_logit_rows(model_->config(), max_num_batched_tokens)),
      logits_(DType::kFloat32, {logit_rows_, model_->config().vocab_size}, context.device(),
              "logits"),
      gathered_(cache_->config().dtype, {logit_rows_, model_->config().hidden_size},
                context.device(), "gathered rows"),
      inputs_(context, {max_num_batched_tokens, std::min(max_num_batched_tokens, max_num_seqs),
                        cache_->layer(0).pages_per_moba_block()}),
      samplers_(static_cast<std::size_t>(context.pool().num_threads())),
      logprob_workspaces_(samplers_.size()) {
  if (context.device().type != DeviceType::kCpu) {
    host_logits_ = Buffer::host_for(context.device(), logits_.view().num_bytes(), "logits");
  }
}

StepResult& ModelRunner::run(const Batch& batch) {
  context_.make_current();
  const ForwardBatch forward = inputs_.upload(batch);
  copy_pages(context_, batch.page_copies, *cache_);
  attention_->plan(batch.attention_metadata());
  const TensorView hidden = model_->forward(forward, *cache_, *attention_);

  compute_prompt_logprobs(batch, hidden);
  sample(batch, hidden);
  context_.synchronize();  // a batch without samples too: its arrays are free again
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
  const TensorView out = gathered_.view().rows(0, count);
  gather_rows(context_, hidden, inputs_.sample_rows().rows(first, first + count), out);
  return out;
}

float* ModelRunner::on_host(const TensorView& logits) {
  if (context_.device().type == DeviceType::kCpu) return logits.data<float>();
  const TensorView host(host_logits_.data(), DType::kFloat32, logits.shape());
  copy_to_host(context_, logits, host);
  context_.synchronize();
  return host.data<float>();
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
    float* const data = on_host(logits);
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
        const float* const data = on_host(logits);
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
