#include "device/cpu/cpu_features.h"

#include <unistd.h>

namespace moba::cpu {
namespace {

Isa highest_isa() {
#if MOBA_SIMD_X86
  // The compiler's probe also asks whether the operating system saves the registers.
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))) {
    return Isa::kGeneric;
  }
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))) {
    return Isa::kAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
#else
  return Isa::kGeneric;
#endif
}

// The processor is asked once.
Isa cached_highest_isa() {
  static const Isa isa = highest_isa();
  return isa;
}

// AMD's cores multiply bfloat16 pairs at twice the rate of float32. Intel's do not (their AMX
// does): measured on Sapphire Rapids, 512 x 576 x 1536, the float32 kernels were faster.
bool has_fast_bf16() {
#if MOBA_SIMD_X86
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

constexpr std::int64_t kCommonL1Bytes = 32 << 10;
constexpr std::int64_t kCommonL2Bytes = 512 << 10;

// What the system says of a cache, or a common size where it does not tell.
[[maybe_unused]] std::int64_t cache_bytes(int name, std::int64_t common) {
  const std::int64_t bytes = sysconf(name);
  return bytes > 0 ? bytes : common;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

Isa best_isa() {
  const Isa isa = cached_highest_isa();
  return isa == Isa::kAvx512Bf16 && !has_fast_bf16() ? Isa::kAvx512 : isa;
}

bool isa_available(Isa isa) { return isa <= cached_highest_isa(); }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa_available(isa)) isas.push_back(isa);
  }
  return isas;
}

std::int64_t l1_cache_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const std::int64_t bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, kCommonL1Bytes);
  return bytes;
#else
  return kCommonL1Bytes;
#endif
}

std::int64_t l2_cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const std::int64_t bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE, kCommonL2Bytes);
  return bytes;
#else
  return kCommonL2Bytes;
#endif
}

}  // namespace moba::cpu
