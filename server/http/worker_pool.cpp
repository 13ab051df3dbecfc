#include "server/http/worker_pool.h"

#include <utility>

namespace moba::server {

WorkerPool::WorkerPool(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { run(); });
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    filled_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::post(std::function<void()> function) {
  const std::lock_guard lock(mutex_);
  functions_.push_back(std::move(function));
  filled_.notify_one();
}

void WorkerPool::run() {
  while (true) {
    std::function<void()> function;
    {
      std::unique_lock lock(mutex_);
      filled_.wait(lock, [this] { return stop_ || !functions_.empty(); });
      if (stop_) return;
      function = std::move(functions_.front());
      functions_.pop_front();
    }
    function();
  }
}

}  // namespace moba::server
