#include "device/cuda/memory_cuda.h"

#include <cuda_runtime_api.h>

#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/device_guard.h"

namespace moba::cuda {

void* allocate(int device, std::size_t size, const char* what) {
  const DeviceGuard guard(device);
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, size);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0;
    std::size_t total = 0;
    MOBA_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    throw Error(concat(what, ": cannot allocate ", size, " bytes on cuda:", device, ": ", free,
                       " of its ", total, " bytes are free"));
  }
  MOBA_CUDA_CHECK(error);
  return data;
}

void release(int device, void* data) noexcept {
  // cudaFree finds the device of the memory by itself, but may make the current one's context.
  int before = 0;
  static_cast<void>(cudaGetDevice(&before));
  static_cast<void>(cudaSetDevice(device));
  static_cast<void>(cudaFree(data));
  static_cast<void>(cudaSetDevice(before));
}

void* allocate_pinned(int device, std::size_t size, const char* what) {
  const DeviceGuard guard(device);
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, size, cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    throw Error(concat(what, ": cannot allocate ", size, " bytes of pinned memory"));
  }
  MOBA_CUDA_CHECK(error);
  return data;
}

void release_pinned(void* data) noexcept { static_cast<void>(cudaFreeHost(data)); }

}  // namespace moba::cuda
