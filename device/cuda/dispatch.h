// From a dtype at run time to the type of a kernel's template.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/check.h"
#include "device/dtype.h"

namespace moba::cuda {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>{}) with T of float, __nv_bfloat16 and __half. Throws Error for others.
template <typename Body>
void dispatch_float(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      body(TypeTag<float>{});
      return;
    case DType::kBFloat16:
      body(TypeTag<__nv_bfloat16>{});
      return;
    case DType::kFloat16:
      body(TypeTag<__half>{});
      return;
    default:
      throw Error(concat("no kernel for dtype ", dtype_name(dtype)));
  }
}

}  // namespace moba::cuda
