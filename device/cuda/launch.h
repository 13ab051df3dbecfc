// Kernel launches.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "device/cuda/cuda_check.h"

namespace moba::cuda {

// Where and how wide a kernel runs.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  // dynamic
};

// Launches a kernel on a stream and checks that it was. `name` is for the error.
//
// With `overlap`, on devices that can (compute capability 9.0), the kernel may start before the one
// ahead of it in the stream has ended (programmatic dependent launch): it must call
// wait_for_predecessors() before it touches what any of them wrote, or writes what they read.
template <typename... Params, typename... Args>
void launch(cudaStream_t stream, const LaunchShape& shape, bool overlap, const char* name,
            void (*kernel)(Params...), Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  const cudaError_t error =
      cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...);
  if (error != cudaSuccess) fail(error, name, "launch", 0);
}

}  // namespace moba::cuda
