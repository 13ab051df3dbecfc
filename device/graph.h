// A sequence of operations that is recorded once and then issued as a whole.
#pragma once

#include <functional>
#include <memory>

#include "device/context.h"

namespace moba {

// Of a CUDA device. Move-only. Must not outlive its context.
class Graph {
 public:
  // Records what `issue` issues on the context, without running it. That must be the same whenever
  // it runs: addresses and shapes are kept, contents of memory are not. It may not wait for the
  // device. Throws Error for operations that cannot be recorded, and whatever `issue` throws.
  Graph(DeviceContext& context, const std::function<void()>& issue);
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;
  ~Graph();

  // Issues all of it.
  void launch(DeviceContext& context) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moba
