#include "attention/attention_backend.h"

#include "attention/attention_check.h"
#include "attention/cpu/cpu_attention_backend.h"
#include "device/check.h"

namespace moba {

std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config) {
  check_config(config);
  MOBA_CHECK(context.device().type == DeviceType::kCpu, "attention: no backend for ",
             device_name(context.device()));
  return cpu::create_attention_backend(context, config);
}

}  // namespace moba
