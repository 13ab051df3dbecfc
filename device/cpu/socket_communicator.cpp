#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "device/socket_group.h"

namespace moba {
namespace {

// Up to so many bytes a sum takes one round in which everybody sends all it has; above, two rounds
// of parts.
constexpr std::size_t kOneRoundBytes = std::size_t{32} << 10;

std::span<const std::byte> bytes_of(const TensorView& t) {
  return {static_cast<const std::byte*>(t.raw()), t.num_bytes()};
}

class SocketCommunicator final : public Communicator {
 public:
  explicit SocketCommunicator(std::shared_ptr<SocketGroup> group)
      : Communicator(group->rank(), group->size()), group_(std::move(group)) {}

  std::shared_ptr<GroupControl> control() const override { return group_; }

 private:
  void do_all_reduce(const TensorView& x) override {
    auto* const data = static_cast<std::byte*>(x.raw());
    const std::size_t element = dtype_size(x.dtype());
    const auto count = static_cast<std::size_t>(x.num_elements());
    const auto ranks = static_cast<std::size_t>(size());
    const auto mine = static_cast<std::size_t>(rank());
    const bool one_round = x.num_bytes() <= kOneRoundBytes;
    // The part of the sum that a rank takes; in one round everybody takes the whole.
    const std::size_t part = one_round ? count : (count + ranks - 1) / ranks;
    const auto first_of = [&](std::size_t r) { return one_round ? 0 : std::min(count, part * r); };
    const auto part_of = [&](std::size_t r) {
      const std::size_t first = first_of(r);
      return std::span<std::byte>(data + first * element, std::min(count - first, part) * element);
    };
    const std::size_t my_bytes = part_of(mine).size();
    received_.resize(ranks * my_bytes);
    begin();
    from_.resize(ranks);
    for (std::size_t r = 0; r < ranks; ++r) {
      std::byte* const to = received_.data() + r * my_bytes;
      from_[r] = r == mine ? part_of(mine).data() : to;
      if (r == mine) continue;
      sends_.push_back({static_cast<int>(r), part_of(r)});
      receives_.push_back({static_cast<int>(r), {to, my_bytes}});
    }
    group_->exchange(sends_, receives_, "all_reduce");
    sum_in_order(x.dtype(), from_.data(), size(), my_bytes / element, part_of(mine).data());
    if (one_round) return;
    begin();
    for (std::size_t r = 0; r < ranks; ++r) {
      if (r == mine) continue;
      sends_.push_back({static_cast<int>(r), part_of(mine)});
      receives_.push_back({static_cast<int>(r), part_of(r)});
    }
    group_->exchange(sends_, receives_, "all_reduce");
  }

  void do_all_gather(const TensorView& in, const TensorView& out) override {
    auto* const to = static_cast<std::byte*>(out.raw());
    begin();
    for (int r = 0; r < size(); ++r) {
      std::byte* const place = to + static_cast<std::size_t>(r) * in.num_bytes();
      if (r == rank()) {
        std::memcpy(place, in.raw(), in.num_bytes());
        continue;
      }
      sends_.push_back({r, bytes_of(in)});
      receives_.push_back({r, {place, in.num_bytes()}});
    }
    group_->exchange(sends_, receives_, "all_gather");
  }

  void do_broadcast(const TensorView& x, int root) override {
    begin();
    if (rank() == root) {
      for (int r = 0; r < size(); ++r) {
        if (r != root) sends_.push_back({r, bytes_of(x)});
      }
    } else {
      receives_.push_back({root, {static_cast<std::byte*>(x.raw()), x.num_bytes()}});
    }
    group_->exchange(sends_, receives_, "broadcast");
  }

  void do_barrier() override {
    begin();
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      sends_.push_back({r, {}});
      receives_.push_back({r, {}});
    }
    group_->exchange(sends_, receives_, "barrier");
  }

  void copy(const TensorView& in, const TensorView& out) override {
    std::memcpy(out.raw(), in.raw(), in.num_bytes());
  }

  void begin() {
    sends_.clear();
    receives_.clear();
  }

  std::shared_ptr<SocketGroup> group_;
  std::vector<SocketGroup::Send> sends_;
  std::vector<SocketGroup::Receive> receives_;
  std::vector<std::byte> received_;
  std::vector<const std::byte*> from_;
};

}  // namespace

std::unique_ptr<Communicator> make_socket_communicator(std::shared_ptr<SocketGroup> group) {
  return std::make_unique<SocketCommunicator>(std::move(group));
}

}  // namespace moba
