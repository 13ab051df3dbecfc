#pragma once

#include "device/gemm.h"

namespace moba::cuda {

// See moba::linear; arguments are checked there.
void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks);

}  // namespace moba::cuda
