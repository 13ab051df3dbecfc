// linear() on the CPU with block-quantised weights.
#pragma once

#include <span>

#include "device/context.h"
#include "device/gemm.h"

namespace moba::cpu {

// Of tasks whose weights are all of block formats, packed (quant_layout.h). As linear().
void linear_quantized(DeviceContext& context, const TensorView& x,
                      std::span<const LinearTask> tasks);

}  // namespace moba::cpu
