#pragma once

#include <memory>

#include "attention/attention_backend.h"

namespace moba {

// See create_attention_backend; `context` is of a CUDA device and `config` is checked.
std::unique_ptr<AttentionBackend> create_cuda_attention_backend(DeviceContext& context,
                                                                const AttentionConfig& config);

}  // namespace moba
