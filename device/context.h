// What an operation needs to run: where, with which resources, and with which other ranks.
#pragma once

#include <memory>
#include <utility>

#include "device/buffer.h"
#include "device/check.h"
#include "device/collectives.h"
#include "device/cpu/cpu_features.h"
#include "device/thread_pool.h"
#include "device/workspace.h"

namespace moba {

namespace cuda {

class Context;  // device/cuda/cuda_context.h: streams, handles; only code in cuda/ looks inside
struct ContextDeleter {
  void operator()(Context* context) const noexcept;
};
Context* create_context(int index);
void make_current(const Context& context);
void synchronize(Context& context);

}  // namespace cuda

// One per rank. Not thread-safe: one thread issues a rank's operations. Outlives everything built
// on it. On a CUDA device operations run in the order of issue, behind the caller's back: results
// are there after synchronize().
class DeviceContext {
 public:
  // A CPU context with that many threads (0: one per processor). Its kernels are those of `isa`,
  // which is a choice for tests and benchmarks only; throws Error if the machine lacks it.
  explicit DeviceContext(int num_threads, cpu::Isa isa = cpu::best_isa())
      : isa_(isa), pool_(num_threads), workspace_(pool_.num_threads()) {
    MOBA_CHECK(cpu::isa_available(isa), "this processor has no ", cpu::isa_name(isa));
  }

  // A context of that device, which becomes the calling thread's current one; the threads are for
  // what the host does beside it. Throws Error if the device cannot be used, saying why.
  DeviceContext(Device device, int num_threads) : DeviceContext(num_threads) {
    device_ = device;
    if (device.type == DeviceType::kCuda) backend_.reset(cuda::create_context(device.index));
  }

  Device device() const { return device_; }
  cpu::Isa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }
  Workspace& workspace() { return workspace_; }

  // This rank's end of its group: for memory of the device, and for memory of the host (the same
  // one on the CPU). A group of one unless set.
  Communicator& communicator() { return communicator_ ? *communicator_ : *host_communicator_; }
  const Communicator& communicator() const {
    return communicator_ ? *communicator_ : *host_communicator_;
  }
  Communicator& host_communicator() { return *host_communicator_; }
  // `host` is of the same group as `on_device`, which is null on the CPU.
  void set_communicators(std::unique_ptr<Communicator> on_device,
                         std::unique_ptr<Communicator> host) {
    communicator_ = std::move(on_device);
    host_communicator_ = std::move(host);
  }

  // Of a CUDA device; null on the CPU.
  cuda::Context* cuda() const { return backend_.get(); }
  // A thread that starts to issue operations calls this first. Cheap.
  void make_current() const {
    if (backend_ != nullptr) cuda::make_current(*backend_);
  }
  // Waits for all that was issued; throws Error if any of it failed.
  void synchronize() {
    if (backend_ != nullptr) cuda::synchronize(*backend_);
  }

 private:
  Device device_;
  cpu::Isa isa_;
  ThreadPool pool_;
  Workspace workspace_;
  std::unique_ptr<cuda::Context, cuda::ContextDeleter> backend_;  // null on the CPU
  std::unique_ptr<Communicator> host_communicator_ = make_single_communicator();
  std::unique_ptr<Communicator> communicator_;  // null: the host's
};

}  // namespace moba
