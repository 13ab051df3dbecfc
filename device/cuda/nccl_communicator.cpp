#include "device/cuda/nccl_communicator.h"

#include <nccl.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <utility>

#include "device/buffer.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/stream.h"

namespace moba::cuda {
namespace {

// How long abort() lets a call in progress end by itself.
constexpr std::chrono::milliseconds kPatience{200};

void check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess) return;
  throw Error(concat("NCCL: ", what, ": ", ncclGetErrorString(result)));
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kBFloat16:
      return ncclBfloat16;
    case DType::kFloat16:
      return ncclFloat16;
    case DType::kInt32:
      return ncclInt32;
    case DType::kInt64:
      return ncclInt64;
    default:
      throw Error(concat("NCCL: no dtype ", dtype_name(dtype)));
  }
}

// A rank's communicator as abort() sees it from other threads. NCCL's blocking kind: the other one
// hands every call to a thread of its own, which costs 100 microseconds each.
class Handle final : public GroupControl {
 public:
  Handle(const ncclUniqueId& id, Communicator& host) : host_(host.control()) {
    // NCCL waits for all ranks, however long; from here on they are all on their way to it.
    host.barrier();
    check(ncclCommInitRank(&comm_, host.size(), id, host.rank()), "initialisation");
  }
  ~Handle() override {
    if (comm_ == nullptr) return;
    const bool whole = host_ == nullptr || host_->why_aborted().empty();
    static_cast<void>(whole ? ncclCommDestroy(comm_) : ncclCommAbort(comm_));
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  // Issues an operation.
  template <typename Call>
  void issue(const char* what, Call&& call) {
    num_operations_.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    if (aborted_.load(std::memory_order_acquire)) throw GroupLost(why_aborted());
    check(call(comm_), what);
  }

  void abort(const std::string& why) override {
    {
      const std::lock_guard lock(why_mutex_);
      if (!why_.empty()) return;
      why_ = why;
    }
    aborted_.store(true, std::memory_order_release);
    // Kernels of this communicator that wait for other ranks end. A rank that is inside a call sees
    // the flag; one that sits in NCCL itself is what ncclCommAbort is made for.
    const bool locked = mutex_.try_lock_for(kPatience);
    if (ncclComm_t comm = std::exchange(comm_, nullptr)) static_cast<void>(ncclCommAbort(comm));
    if (locked) mutex_.unlock();
  }
  std::string why_aborted() const override {
    const std::lock_guard lock(why_mutex_);
    return why_;
  }
  std::uint64_t num_operations(int /*rank*/) const override {
    return num_operations_.load(std::memory_order_relaxed);
  }

 private:
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<GroupControl> host_;
  std::timed_mutex mutex_;  // held while a call is issued
  std::atomic<bool> aborted_{false};
  std::atomic<std::uint64_t> num_operations_{0};
  mutable std::mutex why_mutex_;
  std::string why_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(DeviceContext& context, const ncclUniqueId& id, Communicator& host)
      : Communicator(host.rank(), host.size(), /*always=*/true),
        context_(*context.cuda()),
        token_(DType::kInt32, {1}, context.device(), "NCCL barrier"),
        handle_(std::make_shared<Handle>(id, host)) {
    MOBA_CUDA_CHECK(cudaMemsetAsync(token_.view().raw(), 0, sizeof(std::int32_t), stream()));
    // NCCL connects the ranks at its first operation, which a graph cannot record.
    do_barrier();
  }

  std::shared_ptr<GroupControl> control() const override { return handle_; }

 private:
  cudaStream_t stream() const { return context_.stream(); }

  void do_all_reduce(const TensorView& x) override {
    handle_->issue("all_reduce", [&](ncclComm_t comm) {
      return ncclAllReduce(x.raw(), x.raw(), static_cast<std::size_t>(x.num_elements()),
                           nccl_type(x.dtype()), ncclSum, comm, stream());
    });
  }
  void do_start_all_reduce(const TensorView& x, int lane) override {
    Lane& beside = lanes_[static_cast<std::size_t>(lane)];
    beside.begin.record(stream());
    MOBA_CUDA_CHECK(cudaStreamWaitEvent(side_.get(), beside.begin.get(), 0));
    handle_->issue("all_reduce", [&](ncclComm_t comm) {
      return ncclAllReduce(x.raw(), x.raw(), static_cast<std::size_t>(x.num_elements()),
                           nccl_type(x.dtype()), ncclSum, comm, side_.get());
    });
    beside.end.record(side_.get());
  }
  void do_finish_all_reduce(int lane) override {
    const Event& end = lanes_[static_cast<std::size_t>(lane)].end;
    MOBA_CUDA_CHECK(cudaStreamWaitEvent(stream(), end.get(), 0));
  }
  void do_all_gather(const TensorView& in, const TensorView& out) override {
    handle_->issue("all_gather", [&](ncclComm_t comm) {
      return ncclAllGather(in.raw(), out.raw(), static_cast<std::size_t>(in.num_elements()),
                           nccl_type(in.dtype()), comm, stream());
    });
  }
  void do_broadcast(const TensorView& x, int root) override {
    handle_->issue("broadcast", [&](ncclComm_t comm) {
      return ncclBroadcast(x.raw(), x.raw(), static_cast<std::size_t>(x.num_elements()),
                           nccl_type(x.dtype()), root, comm, stream());
    });
  }
  void do_barrier() override {
    handle_->issue("barrier", [&](ncclComm_t comm) {
      void* const token = token_.view().raw();
      return ncclAllReduce(token, token, 1, ncclInt32, ncclMax, comm, stream());
    });
  }
  void copy(const TensorView& in, const TensorView& out) override { do_all_gather(in, out); }

  // Of an all-reduce beside the rank's stream.
  struct Lane {
    Event begin;
    Event end;
  };

  Context& context_;
  Stream side_{/*urgent=*/true};
  std::array<Lane, kNumLanes> lanes_;
  Tensor token_;
  std::shared_ptr<Handle> handle_;
};

}  // namespace

std::string make_nccl_group_id() {
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "group id");
  return {id.internal, sizeof(id.internal)};
}

std::unique_ptr<Communicator> make_nccl_communicator(DeviceContext& context,
                                                     const std::string& group_id,
                                                     Communicator& host) {
  ncclUniqueId id{};
  MOBA_CHECK(group_id.size() == sizeof(id.internal), "NCCL: a group id of ", group_id.size(),
             " bytes, not ", sizeof(id.internal));
  std::memcpy(id.internal, group_id.data(), group_id.size());
  context.make_current();
  return std::make_unique<NcclCommunicator>(context, id, host);
}

}  // namespace moba::cuda
