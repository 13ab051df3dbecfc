// A point in the order of a context's operations that the host can wait for.
#pragma once

#include <memory>

#include "device/context.h"

namespace moba {

// Not thread-safe. Must not outlive its context.
class Marker {
 public:
  explicit Marker(DeviceContext& context);
  ~Marker();
  Marker(const Marker&) = delete;
  Marker& operator=(const Marker&) = delete;

  // Behind what was issued until now; forgets the point before.
  void record();
  // Waits until what stands before the point has ended: at once, if none was recorded.
  void wait();

 private:
  struct State;
  DeviceContext& context_;
  std::unique_ptr<State> state_;  // null on the CPU, where everything ends before its call does
};

}  // namespace moba
