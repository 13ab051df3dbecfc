#include "attention/cuda/cuda_attention_backend.h"

#include "device/check.h"

namespace moba {

std::unique_ptr<AttentionBackend> create_cuda_attention_backend(DeviceContext& context,
                                                                const AttentionConfig& /*config*/) {
  throw Error(concat("attention: no backend for ", device_name(context.device()), " yet"));
}

}  // namespace moba
