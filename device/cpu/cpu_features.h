// Which kernels this machine can run.
#pragma once

#include <vector>

namespace moba::cpu {

// Instruction sets that kernels are compiled for, from the least to the most. Each includes the
// ones before it.
enum class Isa {
  kGeneric,     // what every processor of the architecture has
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Bf16,  // and AVX512-BF16; only products of bfloat16 by bfloat16 have kernels of their own
};

const char* isa_name(Isa isa);  // "generic", "avx2", "avx512", "avx512_bf16"

// The best instruction set that both the processor and the operating system support. The processor
// is asked once.
Isa best_isa();

// The ones that can run here, least first.
std::vector<Isa> available_isas();

}  // namespace moba::cpu
