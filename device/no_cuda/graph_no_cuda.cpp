#include "device/graph.h"
#include "device/no_cuda/refuse.h"

namespace moba {

struct Graph::State {};

Graph::Graph(DeviceContext& /*context*/, const std::function<void()>& /*issue*/) {
  cuda::refuse("graph");
}
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;
void Graph::launch(DeviceContext& /*context*/) const { cuda::refuse("graph"); }

}  // namespace moba
