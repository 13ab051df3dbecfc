#include "engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <new>
#include <random>
#include <stdexcept>
#include <utility>

#include "engine/status_error.h"

namespace moba {
namespace {

// Seconds beyond which a deadline is none; keeps time points in range.
constexpr double kLongestTimeout = 1e9;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

SchedulerConfig scheduler_config(const EngineCoreConfig& config) {
  SchedulerConfig result;
  result.max_num_batched_tokens = config.scheduler.max_num_batched_tokens;
  result.max_num_seqs = config.scheduler.max_num_seqs;
  result.block_size = config.geometry.block_size;
  result.num_pages = config.num_pages;
  result.long_prefill_token_threshold = config.scheduler.long_prefill_token_threshold;
  return result;
}

BatchBuilderConfig batch_builder_config(const EngineCoreConfig& config) {
  BatchBuilderConfig result;
  result.num_layers = config.model.num_layers;
  result.block_size = config.geometry.block_size;
  result.moba_block_size = config.geometry.pool_moba_block_size();
  result.max_num_batched_tokens = config.scheduler.max_num_batched_tokens;
  result.max_num_seqs = config.scheduler.max_num_seqs;
  return result;
}

std::uint64_t random_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

void refuse_unless(bool condition, const std::string& message) {
  if (!condition) throw StatusError(StatusCode::kInvalidArgument, message);
}

void check_prompt(const std::vector<std::int32_t>& ids, std::int64_t vocab_size) {
  refuse_unless(!ids.empty(), "the prompt is empty");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    refuse_unless(ids[i] >= 0 && ids[i] < vocab_size,
                  concat("token ", i, " of the prompt is ", ids[i],
                         ", outside the vocabulary 0 .. ", vocab_size - 1));
  }
}

// Runs a callback of the caller's; a text for the error it threw.
template <typename F>
std::string guarded(F&& call) {
  try {
    call();
    return {};
  } catch (const std::exception& error) {
    return concat("a callback threw: ", error.what());
  } catch (...) {
    return "a callback threw something that is no exception";
  }
}

}  // namespace

EngineCore::EngineCore(EngineCoreConfig config, std::shared_ptr<const Tokenizer> tokenizer,
                       std::unique_ptr<StepRunner> runner)
    : config_(std::move(config)),
      tokenizer_(std::move(tokenizer)),
      runner_(std::move(runner)),
      scheduler_(with_code(StatusCode::kInvalidArgument,
                           [this] { return Scheduler(scheduler_config(config_)); })),
      batch_builder_(batch_builder_config(config_)) {}

void EngineCore::cancel_all() {
  while (!requests_.empty()) cancel(requests_.begin()->first);
}

std::unique_ptr<ActiveRequest> EngineCore::prepare(Request request, Callbacks callbacks,
                                                   Clock::time_point arrival) const {
  const std::int64_t vocab_size = config_.model.vocab_size;
  LayerAttention attention;
  with_code(StatusCode::kInvalidArgument, [&] {
    validate(request.sampling, vocab_size);
    attention =
        resolve_attention(config_.model, config_.geometry, config_.attention, request.attention);
  });
  auto active = std::make_unique<ActiveRequest>(std::move(request));
  const SamplingParams& params = active->request.sampling;
  active->callbacks = std::move(callbacks);
  active->arrival = arrival;
  if (const auto& timeout = active->request.timeout_seconds) {
    refuse_unless(*timeout >= 0, concat("timeout_seconds is ", *timeout, "; it must be >= 0"));
    if (*timeout < kLongestTimeout) {
      active->deadline = arrival + std::chrono::duration_cast<Clock::duration>(
                                       std::chrono::duration<double>(*timeout));
    }
  }

  Sequence& sequence = active->sequence;
  if (!active->request.prompt_ids.empty()) {
    sequence.tokens = active->request.prompt_ids;
  } else {
    EncodeOptions options;
    options.parse_special_tokens = active->request.parse_special_tokens;
    refuse_unless(!active->request.prompt.empty(), "the prompt is empty");
    try {
      sequence.tokens = tokenizer_->encode(active->request.prompt, options);
    } catch (const std::runtime_error& error) {
      throw StatusError(StatusCode::kInvalidArgument, error.what());
    }
  }
  check_prompt(sequence.tokens, vocab_size);

  const std::int64_t prompt_len = sequence.num_tokens();
  const std::int64_t max_len = config_.max_model_len;
  const bool generates = params.max_tokens.value_or(1) > 0;
  refuse_unless(
      prompt_len + (generates ? 1 : 0) <= max_len,
      concat("the prompt has ", prompt_len, " tokens",
             generates ? " and the output at least 1" : "", ", max_model_len is ", max_len));
  sequence.priority = active->request.priority;
  sequence.num_prompt_tokens = prompt_len;
  sequence.max_num_tokens =
      std::min<std::int64_t>(max_len, prompt_len + params.max_tokens.value_or(max_len));
  sequence.prefill_topk = std::move(attention.prefill_topk);
  sequence.decode_topk = std::move(attention.decode_topk);
  sequence.sampling = make_sampling_state(params, vocab_size, config_.eos_token_ids,
                                          sequence.tokens, params.seed ? 0 : random_seed());
  sequence.wants_prompt_logprobs = params.prompt_logprobs.has_value();
  sequence.num_top_prompt_logprobs = params.prompt_logprobs.value_or(0);
  active->stream.emplace(tokenizer_, params, config_.eos_token_ids);
  return active;
}

void EngineCore::add(std::unique_ptr<ActiveRequest> request, std::int64_t id) {
  request->sequence.id = id;
  // Cannot fail: prepare() has held the length against what the cache holds.
  scheduler_.add(&request->sequence);
  if (request->deadline) deadlines_.emplace(*request->deadline, id);
  requests_.emplace(id, std::move(request));
}

ActiveRequest* EngineCore::find(std::int64_t id) {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

void EngineCore::cancel(std::int64_t id) {
  if (ActiveRequest* request = find(id)) finish(*request, FinishReason::kCancelled, "");
  left_.clear();
}

void EngineCore::expire(Clock::time_point now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    finish(*find(deadlines_.begin()->second), FinishReason::kCancelled, "deadline");
  }
  left_.clear();
}

void EngineCore::step() {
  const StepPlan& plan = scheduler_.schedule();
  if (plan.chunks.empty()) return;
  chunks_ = plan.chunks;
  try {
    run_batch(plan);
  } catch (const std::exception& error) {
    const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
    for (const ScheduledChunk& chunk : chunks_) {
      if (ActiveRequest* request = find(chunk.sequence->id)) {
        fail(*request, memory ? StatusCode::kResourceExhausted : StatusCode::kInternal,
             memory ? "out of memory in a step" : error.what());
      }
    }
  }
  left_.clear();
}

void EngineCore::run_batch(const StepPlan& plan) {
  const Clock::time_point start = Clock::now();
  for (const ScheduledChunk& chunk : chunks_) {
    ActiveRequest& request = *find(chunk.sequence->id);
    if (!request.first_step) request.first_step = start;
  }
  const Batch& batch = batch_builder_.build(plan);
  StepResult& result = runner_->run(batch);
  const Clock::time_point now = Clock::now();
  scheduler_.complete_step();
  ++stats_.num_steps;

  take_prompt_logprobs(batch, result);
  for (const ScheduledChunk& chunk : chunks_) take_prompt_progress(chunk, now);
  for (std::size_t i = 0; i < batch.sample_rows.size(); ++i) {
    take_sample(batch.sample_rows[i].sequence, result.samples[i], now);
  }
}

void EngineCore::take_prompt_logprobs(const Batch& batch, StepResult& result) {
  for (std::size_t i = 0; i < batch.prompt_logprob_rows.size(); ++i) {
    const PromptLogprobRows& rows = batch.prompt_logprob_rows[i];
    ActiveRequest* request = find(rows.sequence->id);
    if (request == nullptr) continue;
    if (!result.prompt_logprob_errors[i].empty()) {
      fail(*request, StatusCode::kInternal, result.prompt_logprob_errors[i]);
      continue;
    }
    std::vector<TokenLogprob>& out = request->output.prompt_logprobs;
    if (out.empty()) out.reserve(static_cast<std::size_t>(rows.sequence->num_prompt_tokens - 1));
    std::move(result.prompt_logprobs[i].begin(), result.prompt_logprobs[i].end(),
              std::back_inserter(out));
    rows.sequence->num_prompt_logprobs += rows.count;
  }
}

void EngineCore::take_prompt_progress(const ScheduledChunk& chunk, Clock::time_point now) {
  ActiveRequest* request = find(chunk.sequence->id);
  if (request == nullptr || request->prompt_done) return;
  const Sequence& sequence = request->sequence;
  const std::int64_t total = sequence.num_prompt_tokens;
  const std::int64_t computed = std::min(chunk.end(), total);
  if (computed == total) {
    request->prompt_done = now;
    stats_.num_prompt_tokens += total;
  }
  if (request->callbacks.on_prompt) {
    bool go_on = true;
    const std::string error =
        guarded([&] { go_on = request->callbacks.on_prompt(computed, total); });
    if (!error.empty()) return fail(*request, StatusCode::kInternal, error);
    if (!go_on) return finish(*request, FinishReason::kCancelled, "");
  }
  if (computed == total && !sequence.wants_more()) finish(*request, FinishReason::kLength, "");
}

void EngineCore::take_sample(Sequence* sequence, StepResult::Sample& sample,
                             Clock::time_point now) {
  ActiveRequest* request = find(sequence->id);
  if (request == nullptr) return;
  if (!sample.error.empty()) return fail(*request, StatusCode::kInternal, sample.error);

  const std::int32_t token_id = sample.token.token_id;
  sequence->tokens.push_back(token_id);
  sequence->sampling.add_output_token(token_id);
  request->last_token = now;
  ++stats_.num_output_tokens;
  const bool ended = request->stream->push(token_id, !sequence->wants_more());
  request->output.text += request->stream->new_text();
  if (sample.token.has_logprob) {
    request->output.logprobs.push_back(std::move(sample.token.logprob));
  }
  if (request->callbacks.on_token) {
    const TokenEvent event{token_id, request->stream->new_text(),
                           sample.token.has_logprob ? &request->output.logprobs.back() : nullptr};
    bool go_on = true;
    const std::string error = guarded([&] { go_on = request->callbacks.on_token(event); });
    if (!error.empty()) return fail(*request, StatusCode::kInternal, error);
    if (!go_on && !ended) return finish(*request, FinishReason::kCancelled, "");
  }
  if (ended) {
    finish(*request, request->stream->finish_reason(), request->stream->stop_reason());
  }
}

void EngineCore::finish(ActiveRequest& request, FinishReason reason, std::string stop_reason) {
  const Sequence& sequence = request.sequence;
  RequestOutput& output = request.output;
  const auto prompt_end =
      sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.num_prompt_tokens);
  output.prompt_ids.assign(sequence.tokens.begin(), prompt_end);
  output.token_ids.assign(prompt_end, sequence.tokens.end());
  output.finish_reason = reason;
  output.stop_reason = std::move(stop_reason);
  if (reason == FinishReason::kCancelled) output.text += request.stream->take_rest();

  RequestMetrics& metrics = output.metrics;
  metrics.num_prompt_tokens = sequence.num_prompt_tokens;
  metrics.num_output_tokens = sequence.num_output_tokens();
  if (request.first_step && request.prompt_done) {
    metrics.prompt_seconds = seconds_between(*request.first_step, *request.prompt_done);
    metrics.time_to_first_token_seconds = seconds_between(request.arrival, *request.prompt_done);
    if (metrics.num_output_tokens > 0) {
      metrics.decode_seconds = seconds_between(*request.prompt_done, request.last_token);
    }
  }
  if (config_.geometry.moba_block_size > 0) {
    const auto count = [&](std::int64_t first, std::int64_t last, std::int32_t topk) {
      if (topk == 0) return;
      const MobaBlockCounts blocks =
          count_moba_blocks(first, last, config_.geometry.moba_block_size, topk);
      metrics.moba_blocks_attended += blocks.attended * config_.model.num_q_heads;
      metrics.moba_blocks_available += blocks.available * config_.model.num_q_heads;
    };
    const std::int64_t computed = sequence.num_computed_tokens;
    const std::int64_t prompt = std::min(computed, sequence.num_prompt_tokens);
    for (const std::int32_t topk : sequence.prefill_topk) count(0, prompt, topk);
    for (const std::int32_t topk : sequence.decode_topk) count(prompt, computed, topk);
  }
  leave(request, std::move(output));
}

void EngineCore::fail(ActiveRequest& request, StatusCode code, const std::string& message) {
  leave(request, Status(code, message));
}

void EngineCore::leave(ActiveRequest& request, Result<RequestOutput> result) {
  const auto it = requests_.find(request.sequence.id);
  left_.push_back(std::move(it->second));
  requests_.erase(it);
  scheduler_.remove(&request.sequence);
  if (request.deadline) deadlines_.erase({*request.deadline, request.sequence.id});
  ++stats_.num_finished;
  if (request.on_finish) guarded([&] { request.on_finish(std::move(result)); });
}

EngineStats EngineCore::stats() const {
  EngineStats stats = stats_;
  stats.num_pages_in_use = scheduler_.num_pages_in_use();
  stats.num_waiting = static_cast<std::int64_t>(scheduler_.num_waiting());
  stats.num_running = static_cast<std::int64_t>(scheduler_.num_running());
  return stats;
}

}  // namespace moba
