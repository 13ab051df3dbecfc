#include "device/cuda/peer_communicator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/peer_exchange.h"

namespace moba::cuda {
namespace {

constexpr std::int64_t kPiece = 16;

// What kernels look at while they wait: host memory that the device reads.
class AbortFlag {
 public:
  explicit AbortFlag(Device device)
      : memory_(Buffer::host_for(device, sizeof(std::uint32_t), "abort flag")) {
    set(0);
  }
  void set(std::uint32_t value) {
    std::atomic_ref<std::uint32_t>(*static_cast<std::uint32_t*>(memory_.data()))
        .store(value, std::memory_order_release);
  }
  const std::uint32_t* data() const { return static_cast<const std::uint32_t*>(memory_.data()); }

 private:
  Buffer memory_;
};

class PeerControl final : public GroupControl {
 public:
  PeerControl(Device device, std::shared_ptr<GroupControl> others)
      : flag_(device), others_(std::move(others)) {}

  void abort(const std::string& why) override {
    {
      const std::lock_guard lock(mutex_);
      if (why_.empty()) why_ = why;
    }
    aborted_.store(true, std::memory_order_release);
    flag_.set(1);
    others_->abort(why);
  }
  std::string why_aborted() const override {
    const std::lock_guard lock(mutex_);
    return why_;
  }
  std::uint64_t num_operations(int rank) const override {
    return num_operations_.load(std::memory_order_relaxed) + others_->num_operations(rank);
  }

  void begin_operation() {
    num_operations_.fetch_add(1, std::memory_order_relaxed);
    if (aborted_.load(std::memory_order_acquire)) throw GroupLost(why_aborted());
  }
  const std::uint32_t* flag() const { return flag_.data(); }

 private:
  AbortFlag flag_;
  std::shared_ptr<GroupControl> others_;
  std::atomic<bool> aborted_{false};
  std::atomic<std::uint64_t> num_operations_{0};
  mutable std::mutex mutex_;
  std::string why_;
};

// A rank's mailboxes for all ranks, and its counts behind them. Ranks share their owners: a rank
// that is done may go while another one still writes.
using Mailboxes = std::shared_ptr<Buffer>;

class PeerCommunicator final : public Communicator {
 public:
  PeerCommunicator(DeviceContext& context, std::unique_ptr<Communicator> others,
                   std::vector<Mailboxes> mailboxes, std::int64_t max_bytes)
      : Communicator(others->rank(), others->size()),
        context_(*context.cuda()),
        others_(std::move(others)),
        mailboxes_(std::move(mailboxes)),
        control_(std::make_shared<PeerControl>(context.device(), others_->control())),
        max_bytes_(std::min(max_bytes, max_peer_message())) {
    const auto box = [](const Mailboxes& of, int sender) {
      return static_cast<std::byte*>(of->data()) + static_cast<std::size_t>(sender) * kMailboxBytes;
    };
    const Mailboxes& mine = mailboxes_[static_cast<std::size_t>(rank())];
    for (int r = 0; r < size(); ++r) {
      const auto index = static_cast<std::size_t>(r);
      end_.to[index] = reinterpret_cast<uint4*>(box(mailboxes_[index], rank()));
      end_.from[index] = reinterpret_cast<const uint4*>(box(mine, r));
    }
    end_.generations = reinterpret_cast<std::uint32_t*>(box(mine, size()));
    end_.aborted = control_->flag();
    end_.rank = rank();
    end_.num_ranks = size();
  }

  std::shared_ptr<GroupControl> control() const override { return control_; }

 private:
  bool fits(const TensorView& x) const {
    const auto bytes = static_cast<std::int64_t>(x.num_bytes());
    return bytes <= max_bytes_ && bytes % kPiece == 0 && is_aligned(x);
  }
  static bool is_aligned(const TensorView& x) {
    return reinterpret_cast<std::uintptr_t>(x.raw()) % kPiece == 0;
  }
  static std::int64_t pieces_of(const TensorView& x) {
    return static_cast<std::int64_t>(x.num_bytes()) / kPiece;
  }

  void do_all_reduce(const TensorView& x) override {
    if (!fits(x)) return others_->all_reduce(x);
    control_->begin_operation();
    launch_peer_all_reduce(end_, x.dtype(), x.raw(), pieces_of(x), context_.stream());
  }
  bool do_try_all_reduce_norm(const TensorView& x, const TensorView& weight, float eps,
                              const TensorView& out) override {
    const std::int64_t rows = x.dim(0);
    const std::int64_t row_bytes = static_cast<std::int64_t>(x.num_bytes()) / rows;
    if (!fits(x) || !is_aligned(out) || rows > kPeerBlocks || row_bytes % kPiece != 0 ||
        row_bytes > kPeerBlockPieces * kPiece) {
      return false;
    }
    control_->begin_operation();
    launch_peer_all_reduce_norm(end_, x.dtype(), x.raw(), rows, row_bytes / kPiece, weight.dtype(),
                                weight.raw(), eps, out.raw(), context_.stream());
    return true;
  }
  // What is worth it is large.
  void do_start_all_reduce(const TensorView& x, int lane) override {
    others_->start_all_reduce(x, lane);
  }
  void do_finish_all_reduce(int lane) override { others_->finish_all_reduce(lane); }
  void do_all_gather(const TensorView& in, const TensorView& out) override {
    if (!fits(in) || !is_aligned(out)) return others_->all_gather(in, out);
    control_->begin_operation();
    launch_peer_all_gather(end_, in.raw(), out.raw(), pieces_of(in), context_.stream());
  }
  void do_broadcast(const TensorView& x, int root) override { others_->broadcast(x, root); }
  void do_barrier() override { others_->barrier(); }
  void copy(const TensorView& in, const TensorView& out) override { others_->all_gather(in, out); }

  Context& context_;
  std::unique_ptr<Communicator> others_;
  std::vector<Mailboxes> mailboxes_;  // of all ranks
  std::shared_ptr<PeerControl> control_;
  std::int64_t max_bytes_;
  PeerEnd end_{};
};

// What every rank gives, by rank. One process: pointers mean the same to all.
std::vector<std::int64_t> exchange(Communicator& host, std::int64_t mine) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(host.size()));
  host.all_gather(TensorView(&mine, DType::kInt64, {1}),
                  TensorView(all.data(), DType::kInt64, {host.size()}));
  return all;
}

bool reaches_all(int device, const std::vector<std::int64_t>& devices) {
  for (const std::int64_t other : devices) {
    if (other == device) continue;
    int can = 0;
    MOBA_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, device, static_cast<int>(other)));
    if (can == 0) return false;
    const cudaError_t error = cudaDeviceEnablePeerAccess(static_cast<int>(other), 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      static_cast<void>(cudaGetLastError());
    } else {
      MOBA_CUDA_CHECK(error);
    }
  }
  return true;
}

}  // namespace

std::int64_t max_peer_message() { return static_cast<std::int64_t>(kMaxPeerMessage); }

std::unique_ptr<Communicator> make_peer_communicator(DeviceContext& context,
                                                     std::unique_ptr<Communicator> others,
                                                     Communicator& host, std::int64_t max_bytes) {
  const int num_ranks = host.size();
  if (num_ranks == 1 || num_ranks > kMaxPeers || max_bytes <= 0) return others;
  context.make_current();
  const std::vector<std::int64_t> devices = exchange(host, context.device().index);
  const bool reached = reaches_all(context.device().index, devices);
  const std::vector<std::int64_t> all_reached = exchange(host, reached ? 1 : 0);
  if (std::count(all_reached.begin(), all_reached.end(), 1) < num_ranks) return others;

  const std::size_t bytes =
      static_cast<std::size_t>(num_ranks) * kMailboxBytes + kPeerBlocks * sizeof(std::uint32_t);
  const auto mine = std::make_shared<Buffer>(context.device(), bytes, "peer mailboxes");
  MOBA_CUDA_CHECK(cudaMemsetAsync(mine->data(), 0, bytes, context.cuda()->stream()));
  context.synchronize();
  std::vector<Mailboxes> mailboxes;
  for (const std::int64_t owner : exchange(host, reinterpret_cast<std::int64_t>(&mine))) {
    mailboxes.push_back(*reinterpret_cast<const Mailboxes*>(owner));
  }
  host.barrier();  // until then they are read
  return std::make_unique<PeerCommunicator>(context, std::move(others), std::move(mailboxes),
                                            max_bytes);
}

}  // namespace moba::cuda
