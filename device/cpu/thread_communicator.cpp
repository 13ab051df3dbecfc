#include "device/cpu/thread_communicator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <string>

#include "device/check.h"

namespace moba::cpu {
namespace {

constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kPausesPerClockRead = 16;
constexpr std::size_t kCacheLine = 64;

enum class Op : std::uint8_t { kNone, kAllReduce, kAllGather, kBroadcast, kBarrier };

const char* op_name(Op op) {
  switch (op) {
    case Op::kAllReduce:
      return "all_reduce";
    case Op::kAllGather:
      return "all_gather";
    case Op::kBroadcast:
      return "broadcast";
    case Op::kBarrier:
      return "barrier";
    case Op::kNone:
      break;
  }
  return "nothing";
}

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What a rank brings to an operation. Written before it arrives, read by the others between the
// operation's two meetings.
struct alignas(kCacheLine) Slot {
  Op op = Op::kNone;
  DType dtype = DType::kFloat32;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  int root = 0;
  std::atomic<std::uint64_t> num_operations{0};
};

// The ranks of a group meet twice in an operation: when all have said what they bring, and when all
// are done with the others' memory. A meeting is a barrier of the central kind: the last to arrive
// raises the generation, which wakes the others. abort() sets a bit of the same word, so that a
// first meeting either completes for all or for none; a second one completes in any case, as those
// who are on their way to it wait for nobody and may still read the others' memory.
class ThreadGroup final : public GroupControl {
 public:
  ThreadGroup(int num_ranks, bool may_spin)
      : slots_(static_cast<std::size_t>(num_ranks)), may_spin_(may_spin) {}

  int size() const { return static_cast<int>(slots_.size()); }
  Slot& slot(int rank) { return slots_[static_cast<std::size_t>(rank)]; }

  void abort(const std::string& why) override {
    const std::lock_guard lock(mutex_);
    if ((generation_.load(std::memory_order_relaxed) & kAborted) != 0) return;
    why_ = why;
    generation_.fetch_or(kAborted, std::memory_order_acq_rel);
    generation_.notify_all();
  }

  std::string why_aborted() const override {
    const std::lock_guard lock(mutex_);
    return why_;
  }

  std::uint64_t num_operations(int rank) const override {
    return slots_[static_cast<std::size_t>(rank)].num_operations.load(std::memory_order_relaxed);
  }

  // Says what `rank` brings and waits for the others; throws on every rank if they differ.
  void begin(int rank, Op op, DType dtype, void* data, std::size_t bytes, int root = 0) {
    check(generation_.load(std::memory_order_acquire));
    Slot& mine = slot(rank);
    mine.op = op;
    mine.dtype = dtype;
    mine.data = static_cast<std::byte*>(data);
    mine.bytes = bytes;
    mine.root = root;
    mine.num_operations.fetch_add(1, std::memory_order_relaxed);
    meet(/*abortable=*/true);
    for (int r = 0; r < size(); ++r) {
      const Slot& other = slot(r);
      if (other.op == op && other.dtype == dtype && other.bytes == bytes && other.root == root) {
        continue;
      }
      abort(concat("ranks do not agree: rank ", std::min(r, rank), " calls ",
                   describe(slot(std::min(r, rank))), ", rank ", std::max(r, rank), " ",
                   describe(slot(std::max(r, rank)))));
      throw GroupLost(why_aborted());
    }
  }

  void end() { meet(/*abortable=*/false); }

 private:
  static constexpr std::uint32_t kAborted = 1U << 31;

  static std::string describe(const Slot& slot) {
    return concat(op_name(slot.op), " of ", slot.bytes, " bytes of ", dtype_name(slot.dtype),
                  " from rank ", slot.root);
  }

  void check(std::uint32_t generation) const {
    if ((generation & kAborted) != 0) throw GroupLost(why_aborted());
  }

  void meet(bool abortable) {
    std::uint32_t value = generation_.load(std::memory_order_acquire);
    const std::uint32_t seen = value & ~kAborted;
    if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
      num_arrived_.store(0, std::memory_order_relaxed);
      const std::uint32_t next = (seen + 1) & ~kAborted;
      do {
        if (abortable) check(value);
      } while (!generation_.compare_exchange_weak(
          value, (value & kAborted) | next, std::memory_order_acq_rel, std::memory_order_acquire));
      generation_.notify_all();
      return;
    }
    const auto ended = [&] {
      value = generation_.load(std::memory_order_acquire);
      return (value & ~kAborted) != seen || (abortable && (value & kAborted) != 0);
    };
    if (!may_spin_ || !spin_until(ended)) {
      while (!ended()) generation_.wait(value, std::memory_order_acquire);
    }
    if ((value & ~kAborted) == seen) check(value);
  }

  template <typename Done>
  static bool spin_until(Done&& done) {
    const auto end = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        if (done()) return true;
        pause_processor();
      }
    } while (std::chrono::steady_clock::now() < end);
    return done();
  }

  std::vector<Slot> slots_;
  bool may_spin_;
  alignas(kCacheLine) std::atomic<std::uint32_t> generation_{0};
  alignas(kCacheLine) std::atomic<int> num_arrived_{0};
  mutable std::mutex mutex_;
  std::string why_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : Communicator(rank, group->size()), group_(std::move(group)) {}

  std::shared_ptr<GroupControl> control() const override { return group_; }

 private:
  // Every rank sums its part of the elements, of all ranks' memory and into all ranks' memory.
  void do_all_reduce(const TensorView& x) override {
    group_->begin(rank(), Op::kAllReduce, x.dtype(), x.raw(), x.num_bytes());
    const std::size_t element = dtype_size(x.dtype());
    const auto count = static_cast<std::size_t>(x.num_elements());
    // Parts end where cache lines do, as memory is aligned to them.
    const auto ranks = static_cast<std::size_t>(size());
    const std::size_t line = kCacheLine / element;
    const std::size_t part = ((count + ranks - 1) / ranks + line - 1) / line * line;
    const std::size_t first = std::min(count, part * static_cast<std::size_t>(rank()));
    const std::size_t n = std::min(count - first, part);
    if (n > 0) {
      from_.resize(ranks);
      for (int r = 0; r < size(); ++r) {
        from_[static_cast<std::size_t>(r)] = group_->slot(r).data + first * element;
      }
      std::byte* const sum = group_->slot(0).data + first * element;
      sum_in_order(x.dtype(), from_.data(), size(), n, sum);
      for (int r = 1; r < size(); ++r) {
        std::memcpy(group_->slot(r).data + first * element, sum, n * element);
      }
    }
    group_->end();
  }

  void do_all_gather(const TensorView& in, const TensorView& out) override {
    group_->begin(rank(), Op::kAllGather, in.dtype(), in.raw(), in.num_bytes());
    auto* to = static_cast<std::byte*>(out.raw());
    for (int r = 0; r < size(); ++r, to += in.num_bytes()) {
      std::memcpy(to, group_->slot(r).data, in.num_bytes());
    }
    group_->end();
  }

  void do_broadcast(const TensorView& x, int root) override {
    group_->begin(rank(), Op::kBroadcast, x.dtype(), x.raw(), x.num_bytes(), root);
    if (rank() != root) std::memcpy(x.raw(), group_->slot(root).data, x.num_bytes());
    group_->end();
  }

  void do_barrier() override {
    group_->begin(rank(), Op::kBarrier, DType::kFloat32, nullptr, 0);
    group_->end();
  }

  void copy(const TensorView& in, const TensorView& out) override {
    std::memcpy(out.raw(), in.raw(), in.num_bytes());
  }

  std::shared_ptr<ThreadGroup> group_;
  std::vector<const std::byte*> from_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int num_ranks, bool may_spin) {
  MOBA_CHECK(num_ranks >= 1, "a group of ", num_ranks, " ranks");
  const auto group = std::make_shared<ThreadGroup>(num_ranks, may_spin);
  std::vector<std::unique_ptr<Communicator>> result;
  result.reserve(static_cast<std::size_t>(num_ranks));
  for (int rank = 0; rank < num_ranks; ++rank) {
    result.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return result;
}

}  // namespace moba::cpu
