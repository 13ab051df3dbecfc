#include "engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <new>
#include <random>
#include <span>
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
  result.enable_prefix_caching = config.enable_prefix_caching;
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

// What sequences must have in common, beside tokens, to have the same keys and values. The salt may
// be any text; what follows it is unambiguous from the end.
std::string prefix_root(const std::string& salt, const std::vector<std::int32_t>& topk) {
  std::string root = salt;
  root += '\0';
  for (const std::int32_t k : topk) root += concat(k, ',');
  return root;
}

// The same for pages from the one of the first output token on, which is token `offset` of it.
std::string output_root(std::string root, std::int64_t offset,
                        const std::vector<std::int32_t>& topk) {
  root += concat('\0', offset, ':');
  for (const std::int32_t k : topk) root += concat(k, ',');
  return root;
}

void hash_pages(Sequence& sequence, int block_size) {
  const auto size = static_cast<std::size_t>(block_size);
  std::uint64_t hash = prefix_root_hash(*sequence.prefix_root);
  sequence.page_hashes.reserve(sequence.tokens.size() / size);
  for (std::size_t i = 0; i + size <= sequence.tokens.size(); i += size) {
    hash = prefix_page_hash(hash, std::span(sequence.tokens).subspan(i, size));
    sequence.page_hashes.push_back(hash);
  }
}

Status status_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return Status(StatusCode::kResourceExhausted, "out of memory in a step");
  }
  return Status(StatusCode::kInternal, error.what());
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

std::unique_ptr<ActiveSample> EngineCore::make_sample(const ActiveRequest& request,
                                                      const LayerAttention& attention,
                                                      int index) const {
  const SamplingParams& params = request.request.sampling;
  auto sample = std::make_unique<ActiveSample>();
  Sequence& sequence = sample->sequence;
  sequence.sample = index;
  sequence.priority = request.request.priority;
  sequence.prefill_topk = attention.prefill_topk;
  sequence.decode_topk = attention.decode_topk;
  sample->stream.emplace(tokenizer_, params, config_.eos_token_ids);
  return sample;
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
  const Request& asked = active->request;
  const SamplingParams& params = asked.sampling;
  active->callbacks = std::move(callbacks);
  active->arrival = arrival;
  refuse_unless(
      params.n <= config_.scheduler.max_num_seqs,
      concat("n is ", params.n, ", and max_num_seqs is ", config_.scheduler.max_num_seqs));
  if (const auto& timeout = asked.timeout_seconds) {
    refuse_unless(*timeout >= 0, concat("timeout_seconds is ", *timeout, "; it must be >= 0"));
    if (*timeout < kLongestTimeout) {
      active->deadline = arrival + std::chrono::duration_cast<Clock::duration>(
                                       std::chrono::duration<double>(*timeout));
    }
  }

  std::vector<std::int32_t> prompt = asked.prompt_ids;
  if (prompt.empty()) {
    refuse_unless(!asked.prompt.empty(), "the prompt is empty");
    EncodeOptions options;
    options.parse_special_tokens = asked.parse_special_tokens;
    try {
      prompt = tokenizer_->encode(asked.prompt, options);
    } catch (const std::runtime_error& error) {
      throw StatusError(StatusCode::kInvalidArgument, error.what());
    }
  }
  check_prompt(prompt, vocab_size);
  const auto prompt_len = static_cast<std::int64_t>(prompt.size());
  const std::int64_t max_len = config_.max_model_len;
  const bool generates = params.max_tokens.value_or(1) > 0;
  refuse_unless(
      prompt_len + (generates ? 1 : 0) <= max_len,
      concat("the prompt has ", prompt_len, " tokens",
             generates ? " and the output at least 1" : "", ", max_model_len is ", max_len));

  const std::uint64_t seed = params.seed ? *params.seed : random_seed();
  for (int i = 0; i < params.n; ++i) {
    active->samples.push_back(make_sample(*active, attention, i));
    Sequence& sequence = active->samples.back()->sequence;
    sequence.num_prompt_tokens = prompt_len;
    sequence.max_num_tokens =
        std::min<std::int64_t>(max_len, prompt_len + params.max_tokens.value_or(max_len));
    sequence.sampling =
        make_sampling_state(params, vocab_size, config_.eos_token_ids, prompt, seed);
    sequence.sampling.stream = static_cast<std::uint32_t>(i);
    if (i > 0) active->samples.front()->sequence.forks.push_back(&sequence);
  }
  Sequence& first = active->samples.front()->sequence;
  first.tokens = std::move(prompt);
  first.num_seats = params.n;
  first.wants_prompt_logprobs = params.prompt_logprobs.has_value();
  first.num_top_prompt_logprobs = params.prompt_logprobs.value_or(0);
  if (config_.enable_prefix_caching) {
    const std::string root = prefix_root(asked.cache_salt, first.prefill_topk);
    first.prefix_root = std::make_shared<const std::string>(root);
    if (first.prefill_topk != first.decode_topk) {
      first.output_root = std::make_shared<const std::string>(
          output_root(root, prompt_len % config_.geometry.block_size, first.decode_topk));
    }
    hash_pages(first, config_.geometry.block_size);
  }
  return active;
}

void EngineCore::add(std::unique_ptr<ActiveRequest> request, std::int64_t id) {
  std::int64_t sequence_id = id;
  for (const auto& sample : request->samples) {
    sample->sequence.id = sequence_id++;
    sample->sequence.request_id = id;
  }
  ActiveRequest& added = *request;
  try {
    requests_.emplace(id, std::move(request));
    // So that leaving takes no memory.
    if (left_.capacity() < requests_.size()) left_.reserve(2 * requests_.size());
    if (added.deadline) deadlines_.emplace(*added.deadline, id);
    // Fails for want of memory only: prepare() has held length and samples against what there is.
    scheduler_.add(&added.samples.front()->sequence);
    added.samples.front()->scheduled = true;
  } catch (const std::exception& error) {
    if (find(id) != nullptr) {
      fail(added, status_of(error));
    } else {
      guarded([&] { request->on_finish(status_of(error)); });
    }
  }
  left_.clear();
}

ActiveRequest* EngineCore::find(std::int64_t request_id) {
  const auto it = requests_.find(request_id);
  return it == requests_.end() ? nullptr : it->second.get();
}

// Runs a part of a step. An exception that gets here leaves nothing to rely on.
template <typename F>
void EngineCore::protect(F&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    start_over(status_of(error));
  }
  left_.clear();
}

void EngineCore::cancel(std::int64_t id) {
  protect([&] {
    if (ActiveRequest* request = find(id)) finish(*request, FinishReason::kCancelled, "");
  });
}

void EngineCore::expire(Clock::time_point now) {
  protect([&] {
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      finish(*find(deadlines_.begin()->second), FinishReason::kCancelled, "deadline");
    }
  });
}

void EngineCore::step() {
  protect([this] { run_step(); });
}

void EngineCore::start_over(const Status& status) {
  scheduler_.reset();
  for (const auto& [id, request] : requests_) {
    for (const auto& sample : request->samples) sample->scheduled = false;
  }
  while (!requests_.empty()) fail(*requests_.begin()->second, status);
}

void EngineCore::run_step() {
  const StepPlan& plan = scheduler_.schedule();
  if (plan.chunks.empty()) return;
  chunks_ = plan.chunks;
  try {
    run_batch(plan);
  } catch (const std::exception& error) {
    const Status status = status_of(error);
    for (const ScheduledChunk& chunk : chunks_) {
      if (ActiveRequest* request = find(chunk.sequence->request_id)) fail(*request, status);
    }
  }
}

void EngineCore::run_batch(const StepPlan& plan) {
  const Clock::time_point start = Clock::now();
  for (const ScheduledChunk& chunk : chunks_) {
    ActiveRequest& request = *find(chunk.sequence->request_id);
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
    const Sequence* sequence = batch.sample_rows[i].sequence;
    ActiveRequest* request = find(sequence->request_id);
    if (request == nullptr) continue;
    fork_samples(*request);
    ActiveSample& sample = *request->samples[static_cast<std::size_t>(sequence->sample)];
    take_sample(*request, sample, result.samples[i], now);
  }
}

void EngineCore::take_prompt_logprobs(const Batch& batch, StepResult& result) {
  for (std::size_t i = 0; i < batch.prompt_logprob_rows.size(); ++i) {
    const PromptLogprobRows& rows = batch.prompt_logprob_rows[i];
    ActiveRequest* request = find(rows.sequence->request_id);
    if (request == nullptr) continue;
    if (!result.prompt_logprob_errors[i].empty()) {
      fail(*request, Status(StatusCode::kInternal, result.prompt_logprob_errors[i]));
      continue;
    }
    std::vector<TokenLogprob>& out = request->prompt_logprobs;
    if (out.empty()) out.reserve(static_cast<std::size_t>(rows.sequence->num_prompt_tokens - 1));
    std::move(result.prompt_logprobs[i].begin(), result.prompt_logprobs[i].end(),
              std::back_inserter(out));
    rows.sequence->num_prompt_logprobs += rows.count;
  }
}

void EngineCore::take_prompt_progress(const ScheduledChunk& chunk, Clock::time_point now) {
  ActiveRequest* request = find(chunk.sequence->request_id);
  if (request == nullptr || request->prompt_done) return;
  const Sequence& sequence = request->first();
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
    if (!error.empty()) return fail(*request, Status(StatusCode::kInternal, error));
    if (!go_on) return finish(*request, FinishReason::kCancelled, "");
  }
  if (computed == total && !sequence.wants_more()) finish(*request, FinishReason::kLength, "");
}

// The prompt has been read: the other samples go their own ways from here.
void EngineCore::fork_samples(ActiveRequest& request) {
  Sequence& first = request.samples.front()->sequence;
  for (Sequence* fork : first.forks) {
    fork->tokens = first.tokens;
    fork->prefix_root = first.prefix_root;
    fork->output_root = first.output_root;
    scheduler_.fork(&first, fork);
    request.samples[static_cast<std::size_t>(fork->sample)]->scheduled = true;
  }
  first.forks.clear();
}

void EngineCore::take_sample(ActiveRequest& request, ActiveSample& sample,
                             StepResult::Sample& result, Clock::time_point now) {
  if (!result.error.empty()) return fail(request, Status(StatusCode::kInternal, result.error));

  const std::int32_t token_id = result.token.token_id;
  Sequence& sequence = sample.sequence;
  sequence.tokens.push_back(token_id);
  sequence.sampling.add_output_token(token_id);
  request.last_token = now;
  ++stats_.num_output_tokens;
  const bool ended = sample.stream->push(token_id, !sequence.wants_more());
  sample.output.text += sample.stream->new_text();
  if (result.token.has_logprob) {
    sample.output.logprobs.push_back(std::move(result.token.logprob));
  }
  if (request.callbacks.on_token) {
    const TokenEvent event{token_id, sample.stream->new_text(),
                           result.token.has_logprob ? &sample.output.logprobs.back() : nullptr,
                           sequence.sample};
    bool go_on = true;
    const std::string error = guarded([&] { go_on = request.callbacks.on_token(event); });
    if (!error.empty()) return fail(request, Status(StatusCode::kInternal, error));
    if (!go_on) {
      if (ended) {
        end_sample(request, sample, sample.stream->finish_reason(), sample.stream->stop_reason());
      }
      return finish(request, FinishReason::kCancelled, "");
    }
  }
  if (!ended) return;
  end_sample(request, sample, sample.stream->finish_reason(), sample.stream->stop_reason());
  const bool all = std::all_of(request.samples.begin(), request.samples.end(),
                               [](const auto& other) { return other->ended; });
  if (all) leave(request, make_output(request));
}

void EngineCore::end_sample(ActiveRequest& request, ActiveSample& sample, FinishReason reason,
                            std::string stop_reason) {
  Sequence& sequence = sample.sequence;
  sample.output.token_ids.assign(
      sequence.tokens.begin() +
          static_cast<std::ptrdiff_t>(std::min(sequence.num_prompt_tokens, sequence.num_tokens())),
      sequence.tokens.end());
  sample.output.finish_reason = reason;
  sample.output.stop_reason = std::move(stop_reason);
  if (reason == FinishReason::kCancelled) sample.output.text += sample.stream->take_rest();
  sample.ended = true;
  if (sample.scheduled) scheduler_.remove(&sequence);
  sample.scheduled = false;
  // Those that were to fork from it never ran.
  if (&sample == request.samples.front().get()) sequence.forks.clear();
}

void EngineCore::finish(ActiveRequest& request, FinishReason reason,
                        const std::string& stop_reason) {
  for (const auto& sample : request.samples) {
    if (!sample->ended) end_sample(request, *sample, reason, stop_reason);
  }
  leave(request, make_output(request));
}

RequestMetrics EngineCore::make_metrics(const ActiveRequest& request) const {
  RequestMetrics metrics;
  metrics.num_prompt_tokens = request.first().num_prompt_tokens;
  metrics.num_cached_tokens = request.first().num_cached_tokens;
  for (const auto& sample : request.samples) {
    metrics.num_output_tokens += static_cast<std::int64_t>(sample->output.token_ids.size());
  }
  if (request.first_step && request.prompt_done) {
    metrics.prompt_seconds = seconds_between(*request.first_step, *request.prompt_done);
    metrics.time_to_first_token_seconds = seconds_between(request.arrival, *request.prompt_done);
    if (metrics.num_output_tokens > 0) {
      metrics.decode_seconds = seconds_between(*request.prompt_done, request.last_token);
    }
  }
  if (config_.geometry.moba_block_size == 0) return metrics;
  const auto count = [&](std::int64_t first, std::int64_t last, std::int32_t topk) {
    if (topk == 0) return;
    const MobaBlockCounts blocks =
        count_moba_blocks(first, last, config_.geometry.moba_block_size, topk);
    metrics.moba_blocks_attended += blocks.attended * config_.model.num_q_heads;
    metrics.moba_blocks_available += blocks.available * config_.model.num_q_heads;
  };
  for (const auto& sample : request.samples) {
    const Sequence& sequence = sample->sequence;
    const std::int64_t computed = sequence.num_computed_tokens;
    const std::int64_t prompt = std::min(computed, sequence.num_prompt_tokens);
    if (sequence.sample == 0) {
      const std::int64_t cached = std::min(sequence.num_cached_tokens, prompt);
      for (const std::int32_t topk : sequence.prefill_topk) count(cached, prompt, topk);
    }
    for (const std::int32_t topk : sequence.decode_topk) count(prompt, computed, topk);
  }
  return metrics;
}

RequestOutput EngineCore::make_output(ActiveRequest& request) const {
  RequestOutput output;
  output.metrics = make_metrics(request);
  const Sequence& first = request.first();
  output.prompt_ids.assign(
      first.tokens.begin(),
      first.tokens.begin() + static_cast<std::ptrdiff_t>(first.num_prompt_tokens));
  output.prompt_logprobs = std::move(request.prompt_logprobs);
  SampleOutput& sample = request.samples.front()->output;
  output.token_ids = std::move(sample.token_ids);
  output.text = std::move(sample.text);
  output.finish_reason = sample.finish_reason;
  output.stop_reason = std::move(sample.stop_reason);
  output.logprobs = std::move(sample.logprobs);
  for (std::size_t i = 1; i < request.samples.size(); ++i) {
    output.more_samples.push_back(std::move(request.samples[i]->output));
  }
  return output;
}

void EngineCore::fail(ActiveRequest& request, const Status& status) { leave(request, status); }

void EngineCore::leave(ActiveRequest& request, Result<RequestOutput> result) {
  for (const auto& sample : request.samples) {
    if (sample->scheduled) scheduler_.remove(&sample->sequence);
    sample->scheduled = false;
  }
  if (request.deadline) deadlines_.erase({*request.deadline, request.id()});
  ++stats_.num_finished;
  const auto it = requests_.find(request.id());
  left_.push_back(std::move(it->second));
  requests_.erase(it);
  if (request.on_finish) guarded([&] { request.on_finish(std::move(result)); });
}

EngineStats EngineCore::stats() const {
  EngineStats stats = stats_;
  stats.num_pages_in_use = scheduler_.num_pages_in_use();
  stats.num_waiting = static_cast<std::int64_t>(scheduler_.num_waiting());
  stats.num_running = static_cast<std::int64_t>(scheduler_.num_running());
  stats.num_pages_cached = scheduler_.cache().num_cached();
  stats.num_preemptions = scheduler_.stats().num_preemptions;
  stats.num_prefix_lookup_tokens = scheduler_.stats().num_prefix_lookup_tokens;
  stats.num_prefix_hit_tokens = scheduler_.stats().num_prefix_hit_tokens;
  return stats;
}

}  // namespace moba
