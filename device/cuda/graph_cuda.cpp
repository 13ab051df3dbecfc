#include <cuda_runtime_api.h>

#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "device/graph.h"

namespace moba {

struct Graph::State {
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
};

Graph::Graph(DeviceContext& context, const std::function<void()>& issue)
    : state_(std::make_unique<State>()) {
  const cudaStream_t stream = context.cuda()->stream();
  MOBA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    issue();
  } catch (...) {
    // Leaves capture mode, whatever has come of it.
    static_cast<void>(cudaStreamEndCapture(stream, &state_->graph));
    static_cast<void>(cudaGetLastError());
    throw;
  }
  MOBA_CUDA_CHECK(cudaStreamEndCapture(stream, &state_->graph));
  MOBA_CUDA_CHECK(cudaGraphInstantiate(&state_->executable, state_->graph, 0));
  MOBA_CUDA_CHECK(cudaGraphUpload(state_->executable, stream));
}

Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;

void Graph::launch(DeviceContext& context) const {
  MOBA_CUDA_CHECK(cudaGraphLaunch(state_->executable, context.cuda()->stream()));
}

}  // namespace moba
