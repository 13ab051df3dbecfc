// Threads for what would hold up the I/O thread: JSON, templates, tokenising.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moba::server {

// Runs functions in the order they were posted. A connection posts one at a time, so that their
// number is bounded by that of the connections. Thread-safe. Destroying it ends with the functions
// that are running; those that wait are dropped.
class WorkerPool {
 public:
  explicit WorkerPool(int num_threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // `function` must not throw.
  void post(std::function<void()> function);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::function<void()>> functions_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace moba::server
