#include "moba/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "engine/engine_setup.h"
#include "engine/parallel_setup.h"
#include "engine/status_error.h"

namespace moba {
namespace {

// The status of the exception being handled.
Status current_status() {
  try {
    throw;
  } catch (const StatusError& error) {
    return Status(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, error.what());
  } catch (...) {
    return Status(StatusCode::kInternal, "something was thrown that is no exception");
  }
}

template <typename F>
void call_ignoring_errors(F&& call) {
  try {
    call();
  } catch (...) {
  }
}

// What other threads leave for the engine's thread.
struct Inbox {
  struct Arrival {
    std::unique_ptr<ActiveRequest> request;
    std::int64_t id;
  };
  std::mutex mutex;
  std::condition_variable filled;
  std::vector<Arrival> arrivals;  // by id
  std::int64_t next_id = 0;
  std::vector<std::int64_t> cancels;
  bool stop = false;
  std::thread::id engine_thread;  // set before any request exists
};

const Result<RequestOutput>& refused_wait() {
  static const Result<RequestOutput> refusal(
      Status(StatusCode::kInvalidArgument,
             "wait() was called from a callback, where it would wait for itself"));
  return refusal;
}

}  // namespace

// Shared by the handles of a request and by the engine until the request has ended.
class RequestHandle::State {
 public:
  State(std::int64_t id, std::weak_ptr<Inbox> inbox) : id_(id), inbox_(std::move(inbox)) {}

  std::int64_t id() const { return id_; }

  void cancel() {
    const std::shared_ptr<Inbox> inbox = inbox_.lock();
    if (inbox == nullptr || done()) return;
    const std::lock_guard lock(inbox->mutex);
    inbox->cancels.push_back(id_);
    inbox->filled.notify_one();
  }

  bool done() const {
    const std::lock_guard lock(mutex_);
    return result_.has_value();
  }

  void finish(Result<RequestOutput> result) {
    const std::lock_guard lock(mutex_);
    result_.emplace(std::move(result));
    ended_.notify_all();
  }

  // Null for a call on the engine's thread before the end.
  Result<RequestOutput>* wait() {
    std::unique_lock lock(mutex_);
    if (!result_.has_value() && on_engine_thread()) return nullptr;
    ended_.wait(lock, [this] { return result_.has_value(); });
    return &*result_;
  }

  bool wait_for(std::chrono::duration<double> timeout) {
    // Longer waits would leave the clock's range.
    constexpr std::chrono::duration<double> kLongest(1e9);
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return result_.has_value(); };
    if (ended() || on_engine_thread()) return ended();
    return ended_.wait_for(lock, timeout < kLongest ? timeout : kLongest, ended);
  }

 private:
  bool on_engine_thread() const {
    const std::shared_ptr<Inbox> inbox = inbox_.lock();
    return inbox != nullptr && inbox->engine_thread == std::this_thread::get_id();
  }

  const std::int64_t id_;
  const std::weak_ptr<Inbox> inbox_;
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Result<RequestOutput>> result_;  // written once
};

std::int64_t RequestHandle::id() const { return state_->id(); }
void RequestHandle::cancel() { state_->cancel(); }
bool RequestHandle::done() const { return state_->done(); }
bool RequestHandle::wait_for(std::chrono::duration<double> timeout) const {
  return state_->wait_for(timeout);
}
const Result<RequestOutput>& RequestHandle::wait() const {
  const Result<RequestOutput>* result = state_->wait();
  return result == nullptr ? refused_wait() : *result;
}

class Engine::Impl {
 public:
  Impl(EngineParts parts, int max_num_unfinished)
      : parts_(std::move(parts)),
        tokenizer_(parts_.tokenizer),
        max_num_unfinished_(max_num_unfinished),
        inbox_(std::make_shared<Inbox>()),
        thread_([this] { run(); }) {
    inbox_->engine_thread = thread_.get_id();
  }

  ~Impl() {
    {
      const std::lock_guard lock(inbox_->mutex);
      inbox_->stop = true;
      inbox_->filled.notify_one();
    }
    thread_.join();
  }

  std::shared_ptr<RequestHandle::State> submit(Request request, Callbacks callbacks);

  bool on_engine_thread() const { return std::this_thread::get_id() == thread_.get_id(); }
  const EngineParts& parts() const { return parts_; }
  const TokenizerHandle& tokenizer() const { return tokenizer_; }
  EngineStats stats() const {
    EngineStats stats;
    {
      const std::lock_guard lock(stats_mutex_);
      stats = stats_;
    }
    stats.num_refused = num_refused_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  // A request's place among those that have not ended; gives it back unless it is kept.
  class Place {
   public:
    // Throws StatusError if there is none.
    explicit Place(Impl& impl);
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() {
      if (!kept_) impl_.num_unfinished_.fetch_sub(1, std::memory_order_relaxed);
    }
    void keep() { kept_ = true; }

   private:
    Impl& impl_;
    bool kept_ = false;
  };

  std::shared_ptr<RequestHandle::State> enqueue(Request request, Callbacks callbacks);
  void run();
  // Waits for work; false when the engine is to end.
  bool take_inbox();
  void publish_stats();

  EngineParts parts_;
  TokenizerHandle tokenizer_;
  const std::int64_t max_num_unfinished_;
  std::atomic<std::int64_t> num_unfinished_{0};
  std::atomic<std::int64_t> num_refused_{0};
  std::shared_ptr<Inbox> inbox_;
  mutable std::mutex stats_mutex_;
  EngineStats stats_;
  std::thread thread_;  // last: it uses all the others
};

Engine::Impl::Place::Place(Impl& impl) : impl_(impl) {
  const std::int64_t before = impl_.num_unfinished_.fetch_add(1, std::memory_order_relaxed);
  if (before < impl_.max_num_unfinished_) return;
  impl_.num_unfinished_.fetch_sub(1, std::memory_order_relaxed);
  throw StatusError(StatusCode::kResourceExhausted,
                    concat("the queue is full: ", before, " requests are running or waiting"));
}

std::shared_ptr<RequestHandle::State> Engine::Impl::submit(Request request, Callbacks callbacks) {
  try {
    return enqueue(std::move(request), std::move(callbacks));
  } catch (...) {
    num_refused_.fetch_add(1, std::memory_order_relaxed);
    throw;
  }
}

std::shared_ptr<RequestHandle::State> Engine::Impl::enqueue(Request request, Callbacks callbacks) {
  const Clock::time_point arrival = Clock::now();
  // First of all: a full queue costs its callers no tokenising.
  Place place(*this);
  const auto on_finish = std::move(callbacks.on_finish);
  std::unique_ptr<ActiveRequest> active =
      parts_.core->prepare(std::move(request), std::move(callbacks), arrival);
  // A sample's sequence takes an id each.
  const auto num_ids = static_cast<std::int64_t>(active->samples.size());
  const std::lock_guard lock(inbox_->mutex);
  const std::int64_t id = inbox_->next_id;
  const auto state = std::make_shared<RequestHandle::State>(id, inbox_);
  active->on_finish = [this, state, on_finish](Result<RequestOutput> result) {
    num_unfinished_.fetch_sub(1, std::memory_order_relaxed);
    publish_stats();
    // Before the handle, whose owner may take the result away.
    if (on_finish) call_ignoring_errors([&] { on_finish(result); });
    state->finish(std::move(result));
  };
  inbox_->arrivals.push_back({std::move(active), id});
  inbox_->next_id += num_ids;
  place.keep();
  inbox_->filled.notify_one();
  return state;
}

bool Engine::Impl::take_inbox() {
  std::vector<Inbox::Arrival> arrivals;
  std::vector<std::int64_t> cancels;
  bool stop = false;
  {
    std::unique_lock lock(inbox_->mutex);
    inbox_->filled.wait(lock, [this] {
      return inbox_->stop || !inbox_->arrivals.empty() || !inbox_->cancels.empty() ||
             parts_.core->has_work();
    });
    arrivals.swap(inbox_->arrivals);
    cancels.swap(inbox_->cancels);
    stop = inbox_->stop;
  }
  // When it is to end nothing arrives any more; what came last ends as cancelled with the others.
  for (Inbox::Arrival& arrival : arrivals) {
    parts_.core->add(std::move(arrival.request), arrival.id);
  }
  for (const std::int64_t id : cancels) parts_.core->cancel(id);
  return !stop;
}

void Engine::Impl::run() {
  while (take_inbox()) {
    parts_.core->expire(Clock::now());
    parts_.core->step();
    publish_stats();
  }
  parts_.core->cancel_all();
  publish_stats();
}

void Engine::Impl::publish_stats() {
  const EngineStats stats = parts_.core->stats();
  const std::lock_guard lock(stats_mutex_);
  stats_ = stats;
}

Result<std::unique_ptr<Engine>> Engine::create(const EngineConfig& config) {
  try {
    EngineParts parts = set_up_engine(config);
    const int max_num_unfinished = parts.scheduler.max_num_seqs + parts.scheduler.max_num_queued;
    auto impl = std::make_unique<Impl>(std::move(parts), max_num_unfinished);
    return std::unique_ptr<Engine>(new Engine(std::move(impl)));
  } catch (...) {
    return current_status();
  }
}

Status run_rank(const EngineConfig& config) {
  try {
    run_remote_rank(config);
    return Status();
  } catch (...) {
    return current_status();
  }
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Result<RequestHandle> Engine::submit(Request request, Callbacks callbacks) {
  try {
    return RequestHandle(impl_->submit(std::move(request), std::move(callbacks)));
  } catch (...) {
    return current_status();
  }
}

Result<RequestOutput> Engine::generate(const Request& request, const Callbacks& callbacks) {
  if (impl_->on_engine_thread()) {
    return Status(StatusCode::kInvalidArgument,
                  "generate() was called from a callback, where it would wait for itself");
  }
  try {
    return std::move(*impl_->submit(request, callbacks)->wait());
  } catch (...) {
    return current_status();
  }
}

const TokenizerHandle& Engine::tokenizer() const { return impl_->tokenizer(); }
SamplingParams Engine::default_sampling() const { return impl_->parts().default_sampling; }
const EngineInfo& Engine::info() const { return impl_->parts().info; }
EngineStats Engine::stats() const { return impl_->stats(); }

}  // namespace moba
