#include "attention/attention_backend.h"

#include "attention/attention_check.h"
#include "attention/cpu/cpu_attention_backend.h"
#include "attention/cuda/cuda_attention_backend.h"
#include "device/check.h"

namespace moba {

std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config) {
  check_config(config);
  if (context.device().type == DeviceType::kCuda) {
    return create_cuda_attention_backend(context, config);
  }
  MOBA_CHECK(config.dtype != DType::kFloat16, "attention: no float16 on the CPU");
  return cpu::create_attention_backend(context, config);
}

}  // namespace moba
