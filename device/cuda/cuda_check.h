// Checks of CUDA calls and kernel launches: each failure throws moba::Error with one line.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

namespace moba::cuda {

// "what: cudaErrorMemoryAllocation: out of memory (file.cu:12)". Clears the runtime's last error if
// it is not one that stays.
[[noreturn]] void fail(cudaError_t error, const char* what, const char* file, int line);
[[noreturn]] void fail(cublasStatus_t status, const char* what, const char* file, int line);

inline bool failed(cudaError_t error) { return error != cudaSuccess; }
inline bool failed(cublasStatus_t status) { return status != CUBLAS_STATUS_SUCCESS; }

}  // namespace moba::cuda

// Throws unless the call, of the CUDA runtime or cuBLASLt, succeeds. Errors of work that runs on
// the device come with whichever call notices them.
#define MOBA_CUDA_CHECK(call)                                          \
  do {                                                                 \
    const auto moba_cuda_status = (call);                              \
    if (::moba::cuda::failed(moba_cuda_status)) [[unlikely]] {         \
      ::moba::cuda::fail(moba_cuda_status, #call, __FILE__, __LINE__); \
    }                                                                  \
  } while (false)

// After every kernel launch: throws if it could not be launched. Does not wait.
#define MOBA_CUDA_LAUNCH_CHECK(kernel)                                                \
  do {                                                                                \
    const cudaError_t moba_cuda_status = cudaGetLastError();                          \
    if (moba_cuda_status != cudaSuccess) [[unlikely]] {                               \
      ::moba::cuda::fail(moba_cuda_status, "launch of " #kernel, __FILE__, __LINE__); \
    }                                                                                 \
  } while (false)
