#include "device/no_cuda/refuse.h"
#include "engine/cuda/gpu_sampler.h"

namespace moba::cuda {

std::unique_ptr<TokenSampler> create_gpu_sampler(DeviceContext&, const TokenSamplerConfig&) {
  refuse("sampling");
}
std::int64_t gpu_sampler_bytes(const TokenSamplerConfig&) { refuse("sampling"); }

}  // namespace moba::cuda
