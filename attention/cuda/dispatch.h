// From a dtype and a head_dim at run time to a kernel's template arguments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/check.h"
#include "device/dtype.h"

namespace moba::cuda {

// Kernels of 16-bit types exist for these numbers of dimensions; a head_dim between runs as the
// next larger one, with zeros.
inline constexpr int kMaxHalfHeadDim = 128;

// Calls body.operator()<T, D>() with the device type of `dtype` and the least D >= head_dim.
template <typename Body>
void dispatch_half(DType dtype, int head_dim, Body&& body) {
  const auto with_type = [&]<typename T>() {
    if (head_dim <= 64) {
      body.template operator()<T, 64>();
    } else if (head_dim <= 96) {
      body.template operator()<T, 96>();
    } else {
      MOBA_CHECK(head_dim <= kMaxHalfHeadDim, "attention: no kernel for head_dim ", head_dim);
      body.template operator()<T, 128>();
    }
  };
  if (dtype == DType::kBFloat16) {
    with_type.template operator()<__nv_bfloat16>();
  } else {
    MOBA_CHECK(dtype == DType::kFloat16, "attention: no kernel for ", dtype_name(dtype));
    with_type.template operator()<__half>();
  }
}

}  // namespace moba::cuda
