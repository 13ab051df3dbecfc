// What an operation needs to run: where, and with which resources.
#pragma once

#include "device/buffer.h"
#include "device/thread_pool.h"

namespace moba {

// One per rank. Not thread-safe: one thread issues a rank's operations. Outlives everything built
// on it.
class DeviceContext {
 public:
  // A CPU context with that many threads (0: one per processor).
  explicit DeviceContext(int num_threads) : pool_(num_threads) {}

  Device device() const { return device_; }
  ThreadPool& pool() { return pool_; }

 private:
  Device device_;
  ThreadPool pool_;
};

}  // namespace moba
