#include "engine/worker.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "device/collectives.h"

namespace moba {
namespace {

using Clock = std::chrono::steady_clock;

// How long aborted ranks may take to come back.
constexpr std::chrono::seconds kGrace{4};
// How often those who work are looked at.
constexpr std::chrono::milliseconds kLook{100};
// How long an idle thread spins.
constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kExitStuck = 70;

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

bool is_loss(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const GroupLost&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

struct WorkerGroup::State {
  State(int first, int count, bool spin) : first_rank(first), may_spin(spin) {
    done.resize(static_cast<std::size_t>(count), 1);
  }

  // Of the rank with index `index`.
  void work(std::size_t index) {
    std::uint32_t seen = 0;
    for (;;) {
      wait_for_job(seen);
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      std::exception_ptr error;
      try {
        (*body)(first_rank + static_cast<int>(index));
      } catch (...) {
        error = std::current_exception();
      }
      if (error != nullptr) fail(static_cast<int>(index), error);
      const std::lock_guard lock(mutex);
      done[index] = 1;
      if (--num_running == 0) all_done.notify_all();
    }
  }

  void wait_for_job(std::uint32_t seen) const {
    const auto changed = [&] { return epoch.load(std::memory_order_acquire) != seen; };
    if (may_spin) {
      const auto end = Clock::now() + kSpinTime;
      while (!changed() && Clock::now() < end) {
      }
    }
    while (!changed()) epoch.wait(seen, std::memory_order_acquire);
  }

  // The first failure of a job counts; those that follow are its consequences.
  void fail(int index, std::exception_ptr error) {
    {
      const std::lock_guard lock(mutex);
      if (failed) return;
      failed = true;
      first_error = std::move(error);
      const std::string text = text_of(first_error);
      if (is_loss(first_error)) {  // of another process: the line names its rank
        why = concat(text, what.empty() ? "" : ", in ", what);
      } else {
        why = concat("rank ", first_rank + index, " failed", what.empty() ? "" : " in ", what, ": ",
                     text);
      }
    }
    if (watch.abort) watch.abort(why);
  }

  const int first_rank;
  const bool may_spin;
  Watch watch;
  std::vector<std::thread> threads;

  std::atomic<std::uint32_t> epoch{0};  // raised for a job, and to end
  std::atomic<bool> stop{false};
  const Body* body = nullptr;
  std::string what;

  std::mutex mutex;
  std::condition_variable all_done;
  std::vector<char> done;
  int num_running = 0;
  bool failed = false;
  std::exception_ptr first_error;
  std::string why;
};

WorkerGroup::WorkerGroup(int first_rank, int num_ranks, bool may_spin)
    : state_(std::make_unique<State>(first_rank, num_ranks, may_spin)) {
  MOBA_CHECK(num_ranks >= 1, "a group of ", num_ranks, " ranks");
  state_->threads.reserve(static_cast<std::size_t>(num_ranks));
  try {
    for (int i = 0; i < num_ranks; ++i) {
      state_->threads.emplace_back(
          [state = state_.get(), i] { state->work(static_cast<std::size_t>(i)); });
    }
  } catch (const std::system_error& error) {
    state_->stop = true;
    state_->epoch.fetch_add(1, std::memory_order_release);
    state_->epoch.notify_all();
    for (std::thread& thread : state_->threads) thread.join();
    throw Error(concat("cannot start ", num_ranks, " threads: ", error.what()));
  }
}

WorkerGroup::~WorkerGroup() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->epoch.fetch_add(1, std::memory_order_release);
  state_->epoch.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

void WorkerGroup::set_watch(Watch watch) { state_->watch = std::move(watch); }

void WorkerGroup::call(const Body& body) { run("", body, /*is_step=*/false); }

void WorkerGroup::step(const std::string& what, const Body& body) {
  run(what, body, /*is_step=*/true);
}

void WorkerGroup::run(const std::string& what, const Body& body, bool is_step) {
  State& state = *state_;
  const std::size_t count = state.threads.size();
  std::unique_lock lock(state.mutex);
  state.body = &body;
  state.what = what;
  state.failed = false;
  state.first_error = nullptr;
  std::fill(state.done.begin(), state.done.end(), 0);
  state.num_running = static_cast<int>(count);
  state.epoch.fetch_add(1, std::memory_order_release);
  state.epoch.notify_all();

  const auto all = [&] { return state.num_running == 0; };
  const bool limited = is_step && state.watch.limit.count() > 0 && state.watch.progress;
  std::vector<std::uint64_t> progress(count, 0);
  Clock::time_point moved = Clock::now();
  while (!all() && !state.failed) {
    if (!limited) {
      state.all_done.wait_for(lock, kLook, all);
      continue;
    }
    if (state.all_done.wait_for(lock, std::min<Clock::duration>(kLook, state.watch.limit), all)) {
      break;
    }
    bool any = false;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t now = state.watch.progress(state.first_rank + static_cast<int>(i));
      any = any || now != progress[i];
      progress[i] = now;
    }
    if (any) moved = Clock::now();
    if (Clock::now() - moved < state.watch.limit || state.failed) continue;
    // The others wait for the one that has got least far. Of ranks that wait for their devices it
    // cannot be told which that is.
    std::vector<std::size_t> last;
    for (std::size_t i = 0; i < count; ++i) {
      if (state.done[i] != 0) continue;
      if (!last.empty() && progress[i] < progress[last.front()]) last.clear();
      if (last.empty() || progress[i] == progress[last.front()]) last.push_back(i);
    }
    std::string ranks = last.size() > 1 ? "ranks " : "rank ";
    for (std::size_t i = 0; i < last.size(); ++i) {
      ranks += concat(i > 0 ? ", " : "", state.first_rank + static_cast<int>(last[i]));
    }
    state.failed = true;
    state.why =
        concat(ranks, " stalled in ", what, last.size() > 1 ? ": they have" : ": it has",
               " not come along for ", static_cast<double>(state.watch.limit.count()) / 1000, " s");
    const std::string why = state.why;
    lock.unlock();
    if (state.watch.abort) state.watch.abort(why);
    lock.lock();
  }
  if (!all() && !state.all_done.wait_for(lock, kGrace, all)) {
    std::fprintf(stderr, "moba: error: %s; it does not come back, the process ends\n",
                 state.why.c_str());
    std::_Exit(kExitStuck);
  }
  if (!state.failed) return;
  const std::exception_ptr error = state.first_error;
  const std::string why = state.why;
  lock.unlock();
  if (!is_step && error != nullptr) std::rethrow_exception(error);
  throw RankFailure(why);
}

}  // namespace moba
