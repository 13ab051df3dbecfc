// Which kernels this machine can run.
#pragma once

#include <cstdint>
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

// The instruction set whose kernels are fastest here. The processor is asked once.
Isa best_isa();

// Whether both the processor and the operating system support it.
bool isa_available(Isa isa);

// The ones that are available, least first.
std::vector<Isa> available_isas();

// Bytes of a core's first-level data cache and of its second-level cache, or common sizes where the
// system does not tell.
std::int64_t l1_cache_bytes();
std::int64_t l2_cache_bytes();

}  // namespace moba::cpu
