#pragma once

#include <cstdint>
#include <memory>

#include "engine/token_sampler.h"

namespace moba::cuda {

// See create_token_sampler; `context` is of a CUDA device.
std::unique_ptr<TokenSampler> create_gpu_sampler(DeviceContext& context,
                                                 const TokenSamplerConfig& config);
std::int64_t gpu_sampler_bytes(const TokenSamplerConfig& config);

}  // namespace moba::cuda
