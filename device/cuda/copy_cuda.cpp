#include "device/cuda/copy_cuda.h"

#include <cuda_runtime_api.h>

#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"

namespace moba::cuda {

void copy_bytes(DeviceContext& context, const void* from, void* to, std::size_t bytes) {
  MOBA_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, context.cuda()->stream()));
}

void fill_bytes(DeviceContext& context, void* to, unsigned char value, std::size_t bytes) {
  MOBA_CUDA_CHECK(cudaMemsetAsync(to, value, bytes, context.cuda()->stream()));
}

}  // namespace moba::cuda
