// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/dot_panels.h"
#include "attention/cpu/simd_transpose.h"
#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

alignas(64) constexpr float kZeros[kMaxHeadDim] = {};

template <typename T>
void pack_keys_of(const void* const* rows, int num_keys, int head_dim, float* out) {
  for (int j0 = 0; j0 < num_keys; j0 += kPanelKeys, out += kPanelKeys * head_dim) {
    for (int half = 0; half < kPanelKeys; half += kWidth) {
      const T* row[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        const int j = j0 + half + i;
        row[i] = static_cast<const T*>(j < num_keys ? rows[j] : kZeros);
      }
      int d = 0;
      for (; d + kWidth <= head_dim; d += kWidth) {
        Vec square[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) square[i] = load(row[i] + d);
        transpose(square);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) store(out + (d + i) * kPanelKeys + half, square[i]);
      }
      if (d < head_dim) {
        Vec square[kWidth];
        for (int i = 0; i < kWidth; ++i) square[i] = load_partial(row[i] + d, head_dim - d);
        transpose(square);
        for (int i = 0; i < head_dim - d; ++i) store(out + (d + i) * kPanelKeys + half, square[i]);
      }
    }
  }
}

template <typename T>
void widen_rows_of(const void* const* rows, std::int64_t num_rows, int head_dim, float* out) {
  const int padded = padded_dim(head_dim);
  for (std::int64_t r = 0; r < num_rows; ++r, out += padded) {
    const T* row = static_cast<const T*>(rows[r]);
    int d = 0;
    for (; d + kWidth <= head_dim; d += kWidth) store(out + d, load(row + d));
    if (d < head_dim) {
      store(out + d, load_partial(row + d, head_dim - d));
      d += kWidth;
    }
    for (; d < padded; d += kWidth) store(out + d, zero());
  }
}

template <typename T>
void finish_rows_of(const SoftmaxState& state, std::int64_t num_rows, int head_dim,
                    void* const* out) {
  const std::int64_t stride = padded_dim(head_dim);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    const float* from = state.out + r * stride;
    T* to = static_cast<T*>(out[r]);
    const Vec sum = broadcast(state.sum[r]);
    int d = 0;
    for (; d + kWidth <= head_dim; d += kWidth) store(to + d, load(from + d) / sum);
    if (d < head_dim) store_partial(to + d, load(from + d) / sum, head_dim - d);
  }
}

}  // namespace

void pack_keys(const void* const* rows, DType dtype, int num_keys, int head_dim, float* out) {
  if (dtype == DType::kBFloat16) {
    pack_keys_of<BFloat16>(rows, num_keys, head_dim, out);
  } else {
    pack_keys_of<float>(rows, num_keys, head_dim, out);
  }
}

void widen_rows(const void* const* rows, DType dtype, std::int64_t num_rows, int head_dim,
                float* out) {
  if (dtype == DType::kBFloat16) {
    widen_rows_of<BFloat16>(rows, num_rows, head_dim, out);
  } else {
    widen_rows_of<float>(rows, num_rows, head_dim, out);
  }
}

void merge_rows(const SoftmaxState& part, std::int64_t num_rows, int head_dim,
                const std::int32_t* rows, const SoftmaxState& total) {
  const std::int64_t stride = padded_dim(head_dim);
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const std::int64_t row = rows != nullptr ? rows[i] : i;
    const float* from = part.out + i * stride;
    float* to = total.out + row * stride;
    if (total.sum[row] == 0) {
      total.max[row] = part.max[i];
      total.sum[row] = part.sum[i];
      for (int d = 0; d < stride; d += kWidth) store(to + d, load(from + d));
      continue;
    }
    const Vec before = broadcast(total.max[row]);
    const Vec here = broadcast(part.max[i]);
    const Vec now = max(here, before);
    const Vec keep = exp_nonpositive(before - now);
    const Vec take = exp_nonpositive(here - now);
    for (int d = 0; d < stride; d += kWidth) {
      store(to + d, fma(load(from + d), take, load(to + d) * keep));
    }
    const Vec sum = fma(broadcast(part.sum[i]), take, broadcast(total.sum[row]) * keep);
    store_partial(total.sum + row, sum, 1);
    store_partial(total.max + row, now, 1);
  }
}

void finish_rows(const SoftmaxState& state, std::int64_t num_rows, int head_dim, DType dtype,
                 void* const* out) {
  if (dtype == DType::kBFloat16) {
    finish_rows_of<BFloat16>(state, num_rows, head_dim, out);
  } else {
    finish_rows_of<float>(state, num_rows, head_dim, out);
  }
}

}  // namespace moba::cpu::MOBA_SIMD_NS
