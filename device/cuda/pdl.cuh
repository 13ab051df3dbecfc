// The device's side of programmatic dependent launch (device/cuda/launch.h).
#pragma once

#include <cuda_runtime.h>

namespace moba::cuda {

// Waits until the kernels ahead in the stream have ended and what they wrote can be read. Nothing
// to wait for on devices before compute capability 9.0, where kernels do not overlap.
__device__ inline void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind may start as far as there is room, when all blocks of this one have come here.
// It still waits for this one's end before it touches anything, so this may stand at the beginning:
// then a chain of small kernels is in place, with what they read from constant memory under way,
// before the one ahead of them has ended.
__device__ inline void start_successors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace moba::cuda
