#include "engine/engine_core.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <new>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>

#include "engine/guarded_call.h"
#include "engine/status_error.h"
#include "engine/worker.h"

namespace moba {
namespace {

// Seconds beyond which a deadline is none; keeps time points in range.
constexpr double kLongestTimeout = 1e9;

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
  result.max_blocks_per_seq =
      (config.max_model_len + config.geometry.block_size - 1) / config.geometry.block_size;
  return result;
}

// The MoBA layers of one of a request's two attentions.
std::vector<LayerGroup> group_layers(const std::vector<std::int32_t>& topk) {
  std::vector<LayerGroup> groups;
  for (const std::int32_t k : topk) {
    if (k == 0) continue;
    const auto it = std::find_if(groups.begin(), groups.end(),
                                 [k](const LayerGroup& group) { return group.topk == k; });
    if (it == groups.end()) {
      groups.push_back({k, 1});
    } else {
      ++it->num_layers;
    }
  }
  return groups;
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

}  // namespace

EngineCore::EngineCore(EngineCoreConfig config, std::shared_ptr<const Tokenizer> tokenizer,
                       std::unique_ptr<StepRunner> runner)
    : config_(std::move(config)),
      tokenizer_(std::move(tokenizer)),
      runner_(std::move(runner)),
      scheduler_(with_code(StatusCode::kInvalidArgument,
                           [this] { return Scheduler(scheduler_config(config_)); })),
      batch_builders_{BatchBuilder(batch_builder_config(config_)),
                      BatchBuilder(batch_builder_config(config_))} {}

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
  active->prefill_groups = group_layers(attention.prefill_topk);
  active->decode_groups = group_layers(attention.decode_topk);
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

  refuse_unless(params.stop.empty() || tokenizer_->vocab_size() > 0,
                "stop strings need a tokenizer, and the checkpoint has none");
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
    const std::size_t most_left = left_.size() + requests_.size();
    if (left_.capacity() < most_left) left_.reserve(2 * most_left);
    if (added.deadline) deadlines_.emplace(*added.deadline, id);
    // Fails for want of memory only: prepare() has held length and samples against what there is.
    scheduler_.add(&added.samples.front()->sequence);
    added.samples.front()->scheduled = true;
  } catch (const std::exception& error) {
    if (find(id) != nullptr) {
      fail(added, error_status(error));
    } else {
      guarded([&] { request->on_finish(error_status(error)); });
    }
  }
  release_left();
}

EngineCore::~EngineCore() {
  while (num_under_way() > 0) {
    ++num_collected_;
    guarded([this] { runner_->collect(); });
  }
}

// Of the requests that have left, those that no step under way points to.
void EngineCore::release_left() {
  std::erase_if(left_, [this](const Left& left) { return left.num_launched <= num_collected_; });
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
    start_over(error_status(error));
  }
  release_left();
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

void EngineCore::run_step() {
  if (num_under_way() > 0 && !can_run_ahead()) collect();
  const bool launched = launch();
  // The step just launched may go on by itself.
  const std::uint64_t most = launched && runner_->is_asynchronous() ? 1 : 0;
  while (num_under_way() > most) collect();
}

// Whether the next step can be launched without knowing the tokens of the one that is under way.
bool EngineCore::can_run_ahead() const {
  const std::vector<SampleRow>& rows = flights_[num_collected_ % 2].batch->sample_rows;
  return std::all_of(rows.begin(), rows.end(),
                     [](const SampleRow& row) { return row.sequence->sampling.can_run_ahead(); });
}

// Plans a step and sends it on its way; false if there is none.
bool EngineCore::launch() {
  const StepPlan& plan = scheduler_.schedule();
  if (plan.chunks.empty()) return false;
  Flight& flight = flights_[num_launched_ % 2];
  flight.chunks = plan.chunks;
  flight.launched = Clock::now();
  try {
    flight.batch = &batch_builders_[num_launched_ % 2].build(plan);
    runner_->launch(*flight.batch);
  } catch (const RankFailure&) {
    throw;  // no later step can work either
  } catch (const std::exception& error) {
    const Status status = error_status(error);
    for (const ScheduledChunk& chunk : flight.chunks) {
      if (ActiveRequest* request = find(chunk.sequence->request_id)) fail(*request, status);
    }
    return false;
  }
  ++num_launched_;
  ++stats_.num_steps;
  scheduler_.complete_step();

  for (const PromptLogprobRows& rows : flight.batch->prompt_logprob_rows) {
    rows.sequence->num_prompt_logprobs += rows.count;
  }
  const std::vector<SampleRow>& rows = flight.batch->sample_rows;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ActiveRequest& request = *find(rows[i].sequence->request_id);
    fork_samples(request);
    const auto index = static_cast<std::size_t>(rows[i].sequence->sample);
    begin_token(*request.samples[index], i);
  }
  for (const ScheduledChunk& chunk : flight.chunks) {
    ActiveRequest& request = *find(chunk.sequence->request_id);
    if (!request.first_step) {
      request.first_step = flight.launched;
      stats_.queue_time.add(seconds_between(request.arrival, flight.launched));
    }
    const Sequence& sequence = *chunk.sequence;
    if (!sequence.wants_more() && sequence.num_computed_tokens == sequence.num_tokens()) {
      unschedule(*request.samples[static_cast<std::size_t>(sequence.sample)]);
    }
  }
  return true;
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

// The step just launched chooses the sample's next token: until it is known something stands in its
// place, so that the next step can be planned.
void EngineCore::begin_token(ActiveSample& sample, std::size_t sample_row) {
  Sequence& sequence = sample.sequence;
  sequence.tokens.push_back(0);
  ++sequence.num_unknown_tokens;
  sequence.unknown_sample_row = static_cast<std::int32_t>(sample_row);
  sequence.sampling.begin_output_token();
  if (!sequence.wants_more()) unschedule(sample);
}

void EngineCore::unschedule(ActiveSample& sample) {
  if (sample.scheduled) scheduler_.remove(&sample.sequence);
  sample.scheduled = false;
}

void EngineCore::collect() {
  const Flight& flight = flights_[num_collected_ % 2];
  StepResult* result = nullptr;
  try {
    result = &runner_->collect();
  } catch (const std::exception& error) {
    fail_under_way(error_status(error));
    return;
  }
  ++num_collected_;
  const Clock::time_point now = Clock::now();
  stats_.step_time.add(seconds_between(flight.launched, now));
  take_results(flight, *result, now);
}

void EngineCore::fail_under_way(const Status& status) {
  // Whoever runs may have pages of that step, through the prefix cache.
  std::set<std::int64_t> ids;
  for (const auto& [id, request] : requests_) {
    for (const auto& sample : request->samples) {
      if (sample->sequence.is_running || sample->sequence.num_unknown_tokens > 0) ids.insert(id);
    }
  }
  for (bool is_first = true; num_under_way() > 0; is_first = false) {
    for (const ScheduledChunk& chunk : flights_[num_collected_ % 2].chunks) {
      ids.insert(chunk.sequence->request_id);
    }
    ++num_collected_;
    if (!is_first) guarded([this] { runner_->collect(); });
  }
  for (const std::int64_t id : ids) {
    if (ActiveRequest* request = find(id)) fail(*request, status);
  }
  scheduler_.clear_cache();
}

void EngineCore::start_over(const Status& status) {
  scheduler_.reset();
  for (const auto& [id, request] : requests_) {
    for (const auto& sample : request->samples) sample->scheduled = false;
  }
  while (!requests_.empty()) fail(*requests_.begin()->second, status);
}

EngineStats EngineCore::stats() const {
  EngineStats stats = stats_;
  stats.num_pages = config_.num_pages;
  stats.num_evicted_pages = scheduler_.cache().num_evicted();
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
