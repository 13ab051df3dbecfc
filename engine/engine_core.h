// The engine without its thread: requests in, steps, outputs out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/active_request.h"
#include "engine/attention_policy.h"
#include "engine/batch_builder.h"
#include "engine/scheduler.h"
#include "engine/step_runner.h"
#include "moba/engine.h"
#include "model/model_config.h"

namespace moba {

struct EngineCoreConfig {
  ModelConfig model;
  CacheGeometry geometry;
  AttentionOptions attention;
  SchedulerOptions scheduler;
  bool enable_prefix_caching = true;
  std::int64_t num_pages = 0;
  std::int64_t max_model_len = 0;  // at most what the pages hold
  std::vector<std::int32_t> eos_token_ids;
};

// One thread, but for prepare(). Callbacks run inside add(), step(), cancel() and expire(); they
// must not call the core.
class EngineCore {
 public:
  // Throws StatusError for options out of range.
  EngineCore(EngineCoreConfig config, std::shared_ptr<const Tokenizer> tokenizer,
             std::unique_ptr<StepRunner> runner);
  // No request may be left (see cancel_all). Waits for the steps under way.
  ~EngineCore();
  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;

  // Checks a request and makes it ready, tokenising its text. Throws StatusError naming the field
  // and the numbers. Safe from any thread at any time.
  std::unique_ptr<ActiveRequest> prepare(Request request, Callbacks callbacks,
                                         Clock::time_point arrival) const;

  // Queues it. Its samples' sequences have the ids from `id` on, which must be free and larger than
  // those before. What cannot be queued (for want of memory) ends at once with the error.
  void add(std::unique_ptr<ActiveRequest> request, std::int64_t id);
  // Ends a request at once; unknown ids are those that have ended already.
  void cancel(std::int64_t id);
  void cancel_all();
  // Ends the requests whose time is up.
  void expire(Clock::time_point now);
  bool has_work() const { return !requests_.empty() || num_under_way() > 0; }
  // Launches one batch and hands out the tokens of the last one: with a runner that computes on the
  // spot that is the same batch, with an asynchronous one the batch before it. An error of the
  // model ends the requests that were in the batch. One of the engine's own books, in any of these
  // calls, ends all requests, and the engine goes on with empty ones.
  void step();

  EngineStats stats() const;

 private:
  // A step that has been launched and not been collected.
  struct Flight {
    const Batch* batch = nullptr;
    std::vector<ScheduledChunk> chunks;
    Clock::time_point launched;
  };
  struct Left {
    std::unique_ptr<ActiveRequest> request;
    std::uint64_t num_launched;  // steps before it left
  };

  std::unique_ptr<ActiveSample> make_sample(const ActiveRequest& request,
                                            const LayerAttention& attention, int index) const;
  template <typename F>
  void protect(F&& body);

  // Steps (engine_core.cpp).
  std::uint64_t num_under_way() const { return num_launched_ - num_collected_; }
  void run_step();
  bool can_run_ahead() const;
  bool launch();
  void begin_token(ActiveSample& sample, std::size_t sample_row);
  void fork_samples(ActiveRequest& request);
  // Takes it out of the scheduler: there is nothing to compute for it any more.
  void unschedule(ActiveSample& sample);
  void collect();
  // Of a step that failed after its launch: ends the requests that may rest on it.
  void fail_under_way(const Status& status);
  // Ends all requests with an error, without asking the scheduler, which starts afresh.
  void start_over(const Status& status);

  // What comes out of them (step_outputs.cpp).
  void take_results(const Flight& flight, StepResult& result, Clock::time_point now);
  void take_prompt_logprobs(const Batch& batch, StepResult& result);
  void take_prompt_progress(ActiveRequest& request, const ScheduledChunk& chunk,
                            Clock::time_point now);
  void count_moba_blocks_of(ActiveRequest& request, const ScheduledChunk& chunk);
  void take_sample(ActiveRequest& request, ActiveSample& sample, StepResult::Sample& result,
                   Clock::time_point now);
  void end_sample(ActiveRequest& request, ActiveSample& sample, FinishReason reason,
                  std::string stop_reason);
  void count_token(ActiveRequest& request, ActiveSample& sample, Clock::time_point now);
  // Ends all samples that have not ended.
  void finish(ActiveRequest& request, FinishReason reason, const std::string& stop_reason);
  void fail(ActiveRequest& request, const Status& status);
  RequestOutput make_output(ActiveRequest& request) const;
  RequestMetrics make_metrics(const ActiveRequest& request) const;
  void leave(ActiveRequest& request, Result<RequestOutput> result);
  void release_left();
  // Null if it has left.
  ActiveRequest* find(std::int64_t request_id);

  EngineCoreConfig config_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<StepRunner> runner_;
  Scheduler scheduler_;
  std::unordered_map<std::int64_t, std::unique_ptr<ActiveRequest>> requests_;
  std::set<std::pair<Clock::time_point, std::int64_t>> deadlines_;  // of requests_, with their ids
  // A step: the batch is in the builder of the same place.
  std::array<BatchBuilder, 2> batch_builders_;
  std::array<Flight, 2> flights_;
  std::uint64_t num_launched_ = 0;  // steps; those under way are at their number modulo 2
  std::uint64_t num_collected_ = 0;
  // Batches that are under way point into them.
  std::vector<Left> left_;
  EngineStats stats_;
};

}  // namespace moba
