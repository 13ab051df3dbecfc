// What an operation needs to run: where, and with which resources.
#pragma once

#include "device/buffer.h"
#include "device/check.h"
#include "device/cpu/cpu_features.h"
#include "device/thread_pool.h"
#include "device/workspace.h"

namespace moba {

// One per rank. Not thread-safe: one thread issues a rank's operations. Outlives everything built
// on it.
class DeviceContext {
 public:
  // A CPU context with that many threads (0: one per processor). Its kernels are those of `isa`,
  // which is a choice for tests and benchmarks only; throws Error if the machine lacks it.
  explicit DeviceContext(int num_threads, cpu::Isa isa = cpu::best_isa())
      : isa_(isa), pool_(num_threads), workspace_(pool_.num_threads()) {
    MOBA_CHECK(cpu::isa_available(isa), "this processor has no ", cpu::isa_name(isa));
  }

  Device device() const { return device_; }
  cpu::Isa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }
  Workspace& workspace() { return workspace_; }

 private:
  Device device_;
  cpu::Isa isa_;
  ThreadPool pool_;
  Workspace workspace_;
};

}  // namespace moba
