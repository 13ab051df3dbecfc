#pragma once

#include <memory>

#include "attention/attention_backend.h"

namespace moba::cpu {

// See moba::create_attention_backend; the configuration is checked there.
std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config);

}  // namespace moba::cpu
