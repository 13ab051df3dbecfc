#include "attention/cuda/cuda_attention_backend.h"
#include "device/no_cuda/refuse.h"

namespace moba {

std::unique_ptr<AttentionBackend> create_cuda_attention_backend(
    DeviceContext& /*context*/, const AttentionConfig& /*config*/,
    const cuda::CudaAttentionOptions& /*options*/) {
  cuda::refuse("attention");
}

}  // namespace moba
