// From a kernel compiled for several instruction sets (moba_add_simd_kernels) to the one to call.
//
//   MOBA_SIMD_DECLARE(void scale(float* x, std::int64_t n, float by));    // in namespace moba::cpu
//   ...
//   MOBA_SIMD_SELECT(context.isa(), scale)(x, n, by);
#pragma once

#include "device/cpu/cpu_features.h"

#if MOBA_SIMD_X86
#define MOBA_SIMD_DECLARE(...) \
  namespace generic {          \
  __VA_ARGS__;                 \
  }                            \
  namespace avx2 {             \
  __VA_ARGS__;                 \
  }                            \
  namespace avx512 {           \
  __VA_ARGS__;                 \
  }
#define MOBA_SIMD_SELECT(isa, function)                               \
  ((isa) >= ::moba::cpu::Isa::kAvx512 ? ::moba::cpu::avx512::function \
   : (isa) == ::moba::cpu::Isa::kAvx2 ? ::moba::cpu::avx2::function   \
                                      : ::moba::cpu::generic::function)
#else
#define MOBA_SIMD_DECLARE(...) \
  namespace generic {          \
  __VA_ARGS__;                 \
  }
#define MOBA_SIMD_SELECT(isa, function) (static_cast<void>(isa), ::moba::cpu::generic::function)
#endif
