// What ranks that compute one model together say to each other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/check.h"
#include "device/tensor.h"

namespace moba {

// What operations of a group throw once it is lost: the reason stands for itself, it is not this
// rank that failed.
class GroupLost : public Error {
 public:
  using Error::Error;
};

// A group as those see it who watch it from outside. Any thread; it outlives the communicators.
//
// When a rank fails or does not come, no rank waits for ever: somebody calls abort(), and every
// operation of the group, those that wait now included, throws GroupLost with that reason from then
// on. A group does not recover.
class GroupControl {
 public:
  virtual ~GroupControl() = default;
  // Ends the group, with a reason that names who failed; only the first one counts. Does not wait.
  virtual void abort(const std::string& why) = 0;
  // The reason; empty while the group is whole.
  virtual std::string why_aborted() const = 0;
  // Operations that a rank of this process has begun: whether it comes along.
  virtual std::uint64_t num_operations(int rank) const = 0;
};

// One rank's end of a group of `size()` ranks. Every rank of the group calls the same operations in
// the same order with the same shapes and dtypes; tensors are contiguous memory of the rank's
// device. An operation of a group on the host returns when its result is there; one of a group of
// GPUs is issued on the rank's stream, in the order of the rank's operations, and may be captured
// in a graph.
//
// Not thread-safe: one thread a rank. Operations throw GroupLost with the reason if the group is
// aborted, see GroupControl.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // x = the sum of all ranks' x, the same bits on every rank. float32, bfloat16 or float16, which
  // are summed in float32 on the host, in the order of ranks.
  void all_reduce(const TensorView& x);

  // all_reduce() of x, [rows, n], and then out = x / rms(x) * weight as rms_norm() of device/ops.h,
  // in one go. False, and nothing has been done, where the group cannot.
  bool try_all_reduce_norm(const TensorView& x, const TensorView& weight, float eps,
                           const TensorView& out);

  // all_reduce() of x beside what is issued next, where the device can do both: x is neither read
  // nor written between start_all_reduce() and finish_all_reduce() of that lane. At most one a
  // lane, and no other operation of the group while one is under way but those of other lanes.
  // A graph that records one's start records its end.
  static constexpr int kNumLanes = 2;
  void start_all_reduce(const TensorView& x, int lane);
  void finish_all_reduce(int lane);

  // out[r] = rank r's `in`: `in` of any dtype and of n elements, `out` of its dtype and of
  // size() * n elements. They do not overlap.
  void all_gather(const TensorView& in, const TensorView& out);

  // x = rank root's x. Any dtype.
  void broadcast(const TensorView& x, int root);

  // Returns (for GPUs: work issued later runs) once every rank has called it.
  void barrier();

  // Any thread. Null for a group of one.
  virtual std::shared_ptr<GroupControl> control() const = 0;

 protected:
  // `always`: operations of a group of one are run too, instead of being left out.
  Communicator(int rank, int size, bool always = false)
      : rank_(rank), size_(size), alone_(size == 1 && !always) {}

 private:
  // Checks x; whether there is something to sum.
  bool reduces(const TensorView& x) const;
  // Checked, not empty, and not left out.
  virtual void do_all_reduce(const TensorView& x) = 0;
  virtual bool do_try_all_reduce_norm(const TensorView& /*x*/, const TensorView& /*weight*/,
                                      float /*eps*/, const TensorView& /*out*/) {
    return false;
  }
  virtual void do_start_all_reduce(const TensorView& x, int /*lane*/) { do_all_reduce(x); }
  virtual void do_finish_all_reduce(int /*lane*/) {}
  virtual void do_all_gather(const TensorView& in, const TensorView& out) = 0;
  virtual void do_broadcast(const TensorView& x, int root) = 0;
  virtual void do_barrier() = 0;
  // Of a group of one whose operations are left out: out = in.
  virtual void copy(const TensorView& in, const TensorView& out) = 0;

  int rank_;
  int size_;
  bool alone_;
};

// The group of one rank, on the host.
std::unique_ptr<Communicator> make_single_communicator();

// Sums a piece of all ranks' memory in the order of ranks: to[i] = sum_r from[r][i], in float32,
// rounded to the dtype once. `to` may be one of `from`. float32, bfloat16 or float16.
void sum_in_order(DType dtype, const std::byte* const* from, int num_ranks, std::size_t count,
                  std::byte* to);

}  // namespace moba
