// Launches that begin while the kernel before them in the stream still runs (compute
// capability 9.0; elsewhere they are ordinary ones).
#pragma once

#include <cuda_runtime.h>

#include "device/cuda/cuda_check.h"

namespace moba::cuda {

// Before a kernel launched with `early` reads what the kernel before it wrote, or writes what that
// reads: waits until it has ended.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may start once every block of threads came here or ended.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// `early`: the kernel calls wait_for_previous_kernel().
template <typename... Params, typename... Args>
void launch_after(void (*kernel)(Params...), dim3 grid, unsigned threads, int shared_bytes,
                  cudaStream_t stream, bool early, const Args&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  MOBA_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

}  // namespace moba::cuda
