#include "device/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "device/check.h"

namespace moba {
namespace {

// Far above any machine; a guard against a mistyped number.
constexpr int kMaxThreads = 4096;
// How long an idle worker, or the caller at the end of a loop, spins before it sleeps.
constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kPausesPerClockRead = 16;
constexpr std::size_t kCacheLine = 64;

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done()` or until the time is up; true if done.
template <typename Done>
bool spin_until(bool may_spin, Done&& done) {
  if (done()) return true;
  if (!may_spin) return false;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      pause_processor();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

int num_available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return count;
  }
  const auto count = static_cast<int>(std::thread::hardware_concurrency());
  return count > 0 ? count : 1;
}

// A loop is published by opening the gate and raising the epoch, which wakes the workers. A worker
// takes part by adding itself to the gate while that is open, so one that wakes late (or is not
// given a processor) neither holds the loop up nor sees its body after the end. When the items are
// used up the caller closes the gate and waits for those inside to leave. The job's fields are
// written only while the gate is closed and empty.
struct ThreadPool::State {
  static constexpr std::uint32_t kOpen = 1U << 31;

  void run_items(int thread) {
    try {
      for (;;) {
        const std::int64_t item = next.fetch_add(1, std::memory_order_relaxed);
        if (item >= num_items) return;
        invoke(body, item, thread);
      }
    } catch (...) {
      if (!failed.exchange(true, std::memory_order_relaxed)) error = std::current_exception();
      next.store(num_items, std::memory_order_relaxed);
    }
  }

  bool enter() {
    std::uint32_t value = gate.load(std::memory_order_relaxed);
    while ((value & kOpen) != 0) {
      if (gate.compare_exchange_weak(value, value + 1, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }

  void leave() {
    if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) gate.notify_one();
  }

  void worker(int thread) {
    std::uint32_t seen = 0;
    for (;;) {
      const auto changed = [&] { return epoch.load(std::memory_order_acquire) != seen; };
      if (!spin_until(may_spin, changed)) epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (!enter()) continue;
      run_items(thread);
      leave();
    }
  }

  void raise_epoch() {
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
  }

  void stop_workers() {
    stop.store(true, std::memory_order_relaxed);
    raise_epoch();
    for (std::thread& worker : workers) worker.join();
  }

  // What the waiting sides watch; 32 bits, so that atomic waiting is a futex on the word itself.
  alignas(kCacheLine) std::atomic<std::uint32_t> epoch{0};
  alignas(kCacheLine) std::atomic<std::uint32_t> gate{0};  // kOpen | number of workers inside
  alignas(kCacheLine) std::atomic<std::int64_t> next{0};

  alignas(kCacheLine) std::int64_t num_items = 0;
  Invoke invoke = nullptr;
  void* body = nullptr;
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  std::atomic<bool> stop{false};
  std::atomic<bool> running{false};
  bool may_spin = true;
  std::vector<std::thread> workers;
};

ThreadPool::ThreadPool(int num_threads)
    : state_(std::make_unique<State>()), num_threads_(num_threads) {
  MOBA_CHECK(num_threads >= 0 && num_threads <= kMaxThreads, "number of threads is ", num_threads,
             ", not in 0 .. ", kMaxThreads);
  const int processors = num_available_processors();
  if (num_threads_ == 0) num_threads_ = processors;
  // With more threads than processors a spinning one only holds up those with work.
  state_->may_spin = num_threads_ <= processors;
  state_->workers.reserve(static_cast<std::size_t>(num_threads_) - 1);
  try {
    for (int i = 1; i < num_threads_; ++i) {
      state_->workers.emplace_back([state = state_.get(), i] { state->worker(i); });
    }
  } catch (const std::system_error& error) {
    state_->stop_workers();
    throw Error(concat("cannot start ", num_threads_, " threads: ", error.what()));
  }
}

ThreadPool::~ThreadPool() { state_->stop_workers(); }

void ThreadPool::run(std::int64_t num_items, Invoke invoke, void* body) {
  if (num_items <= 1 || num_threads_ == 1) {
    for (std::int64_t item = 0; item < num_items; ++item) invoke(body, item, 0);
    return;
  }
  State& state = *state_;
  MOBA_CHECK(!state.running.exchange(true, std::memory_order_acquire),
             "parallel_for called while another loop of the pool runs");
  state.num_items = num_items;
  state.invoke = invoke;
  state.body = body;
  state.failed.store(false, std::memory_order_relaxed);
  state.next.store(0, std::memory_order_relaxed);
  state.gate.store(State::kOpen, std::memory_order_release);
  state.raise_epoch();

  state.run_items(0);

  state.gate.fetch_and(~State::kOpen, std::memory_order_relaxed);
  const auto empty = [&] { return state.gate.load(std::memory_order_acquire) == 0; };
  if (!spin_until(state.may_spin, empty)) {
    for (;;) {
      const std::uint32_t inside = state.gate.load(std::memory_order_acquire);
      if (inside == 0) break;
      state.gate.wait(inside, std::memory_order_acquire);
    }
  }
  std::exception_ptr error = std::move(state.error);
  state.error = nullptr;
  state.running.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
}

}  // namespace moba
