// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "device/cpu/ops_kernels.h"

#include <cstdint>

#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

template <typename From, typename To>
void convert(const From* from, To* to, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load(from + i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_partial(to + i, load_partial(from + i, rest), rest);
  }
}

template <typename From>
void convert_from(const From* from, void* to, DType to_dtype, std::int64_t n) {
  if (to_dtype == DType::kBFloat16) {
    convert(from, static_cast<BFloat16*>(to), n);
  } else {
    convert(from, static_cast<float*>(to), n);
  }
}

template <typename T>
float sum_of_squares(const T* x, std::int64_t n) {
  Vec sum[4] = {zero(), zero(), zero(), zero()};
  std::int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    for (int j = 0; j < 4; ++j) {
      const Vec v = load(x + i + j * kWidth);
      sum[j] = fma(v, v, sum[j]);
    }
  }
  for (; i < n; i += kWidth) {
    const std::int64_t rest = n - i;
    const Vec v = load_partial(x + i, rest < kWidth ? static_cast<int>(rest) : kWidth);
    sum[0] = fma(v, v, sum[0]);
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <typename T, typename W>
void rms_norm(const T* x, std::int64_t rows, std::int64_t n, const W* weight, float eps, T* out) {
  for (std::int64_t r = 0; r < rows; ++r, x += n, out += n) {
    const float mean = sum_of_squares(x, n) / static_cast<float>(n);
    const Vec scale = broadcast(1.0F / __builtin_sqrtf(mean + eps));
    std::int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) {
      store(out + i, round_to(x, load(x + i) * scale) * load(weight + i));
    }
    if (i < n) {
      const int rest = static_cast<int>(n - i);
      const Vec v = round_to(x, load_partial(x + i, rest) * scale);
      store_partial(out + i, v * load_partial(weight + i, rest), rest);
    }
  }
}

template <typename T>
void rms_norm_weight(const T* x, std::int64_t rows, std::int64_t n, const void* weight,
                     DType weight_dtype, float eps, T* out) {
  switch (weight_dtype) {
    case DType::kBFloat16:
      return rms_norm(x, rows, n, static_cast<const BFloat16*>(weight), eps, out);
    case DType::kFloat16:
      return rms_norm(x, rows, n, static_cast<const Float16*>(weight), eps, out);
    default:
      return rms_norm(x, rows, n, static_cast<const float*>(weight), eps, out);
  }
}

template <typename T>
void rope(T* x, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
          const std::int32_t* positions, const float* cos_sin) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* cosines = cos_sin + positions[t] * head_dim;
    const float* sines = cosines + half;
    for (std::int64_t head = 0; head < heads; ++head, x += head_dim) {
      std::int64_t i = 0;
      for (; i + kWidth <= half; i += kWidth) {
        const Vec c = load(cosines + i);
        const Vec s = load(sines + i);
        const Vec a = load(x + i);
        const Vec b = load(x + half + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
      }
      if (i < half) {
        const int rest = static_cast<int>(half - i);
        const Vec c = load_partial(cosines + i, rest);
        const Vec s = load_partial(sines + i, rest);
        const Vec a = load_partial(x + i, rest);
        const Vec b = load_partial(x + half + i, rest);
        store_partial(x + i, a * c - b * s, rest);
        store_partial(x + half + i, b * c + a * s, rest);
      }
    }
  }
}

MOBA_SIMD_INLINE Vec silu(Vec x) { return x / (broadcast(1.0F) + exp(zero() - x)); }

template <typename T>
void silu_mul(const T* gate, const T* up, T* out, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, silu(load(gate + i)) * load(up + i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    const Vec v = silu(load_partial(gate + i, rest)) * load_partial(up + i, rest);
    store_partial(out + i, v, rest);
  }
}

}  // namespace

void convert_rows(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t n) {
  switch (from_dtype) {
    case DType::kBFloat16:
      return convert_from(static_cast<const BFloat16*>(from), to, to_dtype, n);
    case DType::kFloat16:
      return convert_from(static_cast<const Float16*>(from), to, to_dtype, n);
    default:
      return convert_from(static_cast<const float*>(from), to, to_dtype, n);
  }
}

void rms_norm_rows(const void* x, DType dtype, std::int64_t rows, std::int64_t n,
                   const void* weight, DType weight_dtype, float eps, void* out) {
  if (dtype == DType::kBFloat16) {
    rms_norm_weight(static_cast<const BFloat16*>(x), rows, n, weight, weight_dtype, eps,
                    static_cast<BFloat16*>(out));
  } else {
    rms_norm_weight(static_cast<const float*>(x), rows, n, weight, weight_dtype, eps,
                    static_cast<float*>(out));
  }
}

void rope_rows(void* x, DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
               const std::int32_t* positions, const float* cos_sin) {
  if (dtype == DType::kBFloat16) {
    rope(static_cast<BFloat16*>(x), tokens, heads, head_dim, positions, cos_sin);
  } else {
    rope(static_cast<float*>(x), tokens, heads, head_dim, positions, cos_sin);
  }
}

void silu_mul_elements(const void* gate, const void* up, void* out, DType dtype, std::int64_t n) {
  if (dtype == DType::kBFloat16) {
    silu_mul(static_cast<const BFloat16*>(gate), static_cast<const BFloat16*>(up),
             static_cast<BFloat16*>(out), n);
  } else {
    silu_mul(static_cast<const float*>(gate), static_cast<const float*>(up),
             static_cast<float*>(out), n);
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
