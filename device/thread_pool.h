// A fixed set of threads that run one parallel loop at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace moba {

// Processors that this process may run on; at least 1.
int num_available_processors();

// `num_threads` workers in all: the caller of parallel_for is one of them. One loop at a time:
// parallel_for may be called from one thread at a time and not from inside a loop body. Idle
// workers spin briefly (a decode step starts a loop every few tens of microseconds) and then sleep.
class ThreadPool {
 public:
  // num_threads >= 1; 0 means one per processor this process may run on.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(item, thread) for every item in [0, num_items), `thread` in [0, num_threads()), and
  // returns when all are done. Items go to threads in increasing order as threads become free. The
  // first exception of a body is rethrown here, after the loop has stopped. No allocation.
  template <typename Body>
  void parallel_for(std::int64_t num_items, Body&& body) {
    using Fn = std::remove_reference_t<Body>;
    run(
        num_items,
        [](void* f, std::int64_t item, int thread) { (*static_cast<Fn*>(f))(item, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Invoke = void (*)(void* body, std::int64_t item, int thread);
  void run(std::int64_t num_items, Invoke invoke, void* body);

  struct State;
  std::unique_ptr<State> state_;
  int num_threads_;
};

}  // namespace moba
