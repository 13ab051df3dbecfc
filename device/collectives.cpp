#include "device/collectives.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "device/check.h"

namespace moba {
namespace {

// Elements summed at a time: they stay in the first-level cache.
constexpr std::size_t kBlock = 1024;

void check_tensor(const char* op, const TensorView& t) {
  MOBA_CHECK(t.is_contiguous(), op, ": a tensor of shape ", t.shape().to_string(),
             " whose rows are not contiguous");
  MOBA_CHECK(t.raw() != nullptr || t.num_elements() == 0, op, ": a tensor without memory");
}

template <typename T>
void sum_blocks(const std::byte* const* from, int num_ranks, std::size_t count, std::byte* to) {
  std::array<float, kBlock> sum;
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t n = std::min(kBlock, count - first);
    for (int rank = 0; rank < num_ranks; ++rank) {
      const T* const x = reinterpret_cast<const T*>(from[rank]) + first;
      if (rank == 0) {
        for (std::size_t i = 0; i < n; ++i) sum[i] = static_cast<float>(x[i]);
      } else {
        for (std::size_t i = 0; i < n; ++i) sum[i] += static_cast<float>(x[i]);
      }
    }
    T* const out = reinterpret_cast<T*>(to) + first;
    for (std::size_t i = 0; i < n; ++i) out[i] = T(sum[i]);
  }
}

class SingleCommunicator final : public Communicator {
 public:
  SingleCommunicator() : Communicator(0, 1) {}
  std::shared_ptr<GroupControl> control() const override { return nullptr; }

 private:
  void do_all_reduce(const TensorView& /*x*/) override {}
  void do_all_gather(const TensorView& in, const TensorView& out) override { copy(in, out); }
  void do_broadcast(const TensorView& /*x*/, int /*root*/) override {}
  void do_barrier() override {}
  void copy(const TensorView& in, const TensorView& out) override {
    std::memcpy(out.raw(), in.raw(), in.num_bytes());
  }
};

}  // namespace

bool Communicator::reduces(const TensorView& x) const {
  check_tensor("all_reduce", x);
  MOBA_CHECK(
      x.dtype() == DType::kFloat32 || x.dtype() == DType::kBFloat16 || x.dtype() == DType::kFloat16,
      "all_reduce: dtype ", dtype_name(x.dtype()));
  return !alone_ && x.num_elements() > 0;
}

void Communicator::all_reduce(const TensorView& x) {
  if (reduces(x)) do_all_reduce(x);
}

bool Communicator::try_all_reduce_norm(const TensorView& x, const TensorView& weight, float eps,
                                       const TensorView& out) {
  if (!reduces(x)) return false;
  check_tensor("all_reduce", out);
  MOBA_CHECK(x.rank() == 2 && out.shape() == x.shape() && out.dtype() == x.dtype() &&
                 weight.num_elements() == x.dim(1),
             "all_reduce and norm: x ", x.shape().to_string(), ", weight ",
             weight.shape().to_string(), ", out ", out.shape().to_string());
  return do_try_all_reduce_norm(x, weight, eps, out);
}

void Communicator::start_all_reduce(const TensorView& x, int lane) {
  MOBA_CHECK(lane >= 0 && lane < kNumLanes, "all_reduce: lane ", lane, " of ", kNumLanes);
  if (reduces(x)) do_start_all_reduce(x, lane);
}

void Communicator::finish_all_reduce(int lane) {
  MOBA_CHECK(lane >= 0 && lane < kNumLanes, "all_reduce: lane ", lane, " of ", kNumLanes);
  if (!alone_) do_finish_all_reduce(lane);
}

void Communicator::all_gather(const TensorView& in, const TensorView& out) {
  check_tensor("all_gather", in);
  check_tensor("all_gather", out);
  MOBA_CHECK(in.dtype() == out.dtype() && out.num_elements() == size_ * in.num_elements(),
             "all_gather: ", dtype_name(in.dtype()), " of shape ", in.shape().to_string(),
             " from each of ", size_, " ranks into ", dtype_name(out.dtype()), " of shape ",
             out.shape().to_string());
  if (in.num_elements() == 0) return;
  if (alone_) return copy(in, out);
  do_all_gather(in, out);
}

void Communicator::broadcast(const TensorView& x, int root) {
  check_tensor("broadcast", x);
  MOBA_CHECK(root >= 0 && root < size_, "broadcast: root ", root, " of ", size_, " ranks");
  if (alone_ || x.num_elements() == 0) return;
  do_broadcast(x, root);
}

void Communicator::barrier() {
  if (!alone_) do_barrier();
}

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

void sum_in_order(DType dtype, const std::byte* const* from, int num_ranks, std::size_t count,
                  std::byte* to) {
  switch (dtype) {
    case DType::kFloat32:
      return sum_blocks<float>(from, num_ranks, count, to);
    case DType::kBFloat16:
      return sum_blocks<BFloat16>(from, num_ranks, count, to);
    case DType::kFloat16:
      return sum_blocks<Float16>(from, num_ranks, count, to);
    default:
      throw Error(concat("all_reduce: dtype ", dtype_name(dtype)));
  }
}

}  // namespace moba
