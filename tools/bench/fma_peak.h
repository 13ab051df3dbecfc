// What the processor's multiply-add units can do: the ceiling of attention and products.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/cpu/simd_dispatch.h"

namespace moba::cpu {

// `rounds` x 10 independent chains of multiply-adds on vectors in registers; returns their number
// of floating-point operations. `sink` takes a result, so that none of it is left out.
MOBA_SIMD_DECLARE(std::int64_t multiply_add(std::int64_t rounds, float* sink))

}  // namespace moba::cpu

namespace moba::bench {

// Floating-point operations per second of all the context's threads together, best of several
// measurements.
double fma_peak(DeviceContext& context, double (*clock_seconds)());

}  // namespace moba::bench
