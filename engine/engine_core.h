// The engine without its thread: requests in, steps, outputs out.
#pragma once

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
#include "engine/model_runner.h"
#include "engine/scheduler.h"
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
  // No request may be left (see cancel_all).
  ~EngineCore() = default;
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
  bool has_work() const { return !requests_.empty(); }
  // Computes one batch and hands out its tokens. An error of the model ends the requests that were
  // in the batch. One of the engine's own books, in any of these calls, ends all requests, and the
  // engine goes on with empty ones.
  void step();

  EngineStats stats() const;

 private:
  std::unique_ptr<ActiveSample> make_sample(const ActiveRequest& request,
                                            const LayerAttention& attention, int index) const;
  template <typename F>
  void protect(F&& body);
  void run_step();
  void run_batch(const StepPlan& plan);
  // Ends all requests with an error, without asking the scheduler, which starts afresh.
  void start_over(const Status& status);
  void take_prompt_logprobs(const Batch& batch, StepResult& result);
  void take_prompt_progress(const ScheduledChunk& chunk, Clock::time_point now);
  void fork_samples(ActiveRequest& request);
  void take_sample(ActiveRequest& request, ActiveSample& sample, StepResult::Sample& result,
                   Clock::time_point now);
  void end_sample(ActiveRequest& request, ActiveSample& sample, FinishReason reason,
                  std::string stop_reason);
  // Ends all samples that have not ended.
  void finish(ActiveRequest& request, FinishReason reason, const std::string& stop_reason);
  void fail(ActiveRequest& request, const Status& status);
  RequestOutput make_output(ActiveRequest& request) const;
  RequestMetrics make_metrics(const ActiveRequest& request) const;
  void leave(ActiveRequest& request, Result<RequestOutput> result);
  // Null if it has left.
  ActiveRequest* find(std::int64_t request_id);

  EngineCoreConfig config_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<StepRunner> runner_;
  Scheduler scheduler_;
  BatchBuilder batch_builder_;
  std::unordered_map<std::int64_t, std::unique_ptr<ActiveRequest>> requests_;
  std::set<std::pair<Clock::time_point, std::int64_t>> deadlines_;  // of requests_, with their ids
  std::vector<ScheduledChunk> chunks_;                              // of the step that just ran
  // Left in this step; kept to its end, since plan and batch point into them.
  std::vector<std::unique_ptr<ActiveRequest>> left_;
  EngineStats stats_;
};

}  // namespace moba
