// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/dot_panels.h"
#include "attention/cpu/exp2.h"
#include "attention/cpu/simd_lanes.h"
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
  alignas(64) float keep[kWidth];
  alignas(64) float take[kWidth];
  for (std::int64_t i0 = 0; i0 < num_rows; i0 += kWidth) {
    const int n = num_rows - i0 < kWidth ? static_cast<int>(num_rows - i0) : kWidth;
    std::int64_t row[kWidth];
    alignas(64) float max_before[kWidth] = {};
    alignas(64) float sum_before[kWidth] = {};
    alignas(64) float max_part[kWidth] = {};
    alignas(64) float sum_part[kWidth] = {};
    for (int i = 0; i < n; ++i) {
      row[i] = rows != nullptr ? rows[i0 + i] : i0 + i;
      max_before[i] = total.max[row[i]];
      sum_before[i] = total.sum[row[i]];
      max_part[i] = part.max[i0 + i];
      sum_part[i] = part.sum[i0 + i];
    }
    const Vec before = load(max_before);
    const Vec here = load(max_part);
    const Vec now = max(here, before);
    const Vec keeps = exp2_nonpositive(before - now);
    const Vec takes = exp2_nonpositive(here - now);
    alignas(64) float max_now[kWidth];
    alignas(64) float sum_now[kWidth];
    store(keep, keeps);
    store(take, takes);
    store(max_now, now);
    store(sum_now, fma(load(sum_part), takes, load(sum_before) * keeps));
    for (int i = 0; i < n; ++i) {
      const float* from = part.out + (i0 + i) * stride;
      float* to = total.out + row[i] * stride;
      if (sum_before[i] == 0) {
        total.max[row[i]] = max_part[i];
        total.sum[row[i]] = sum_part[i];
        for (int d = 0; d < stride; d += kWidth) store(to + d, load(from + d));
        continue;
      }
      total.max[row[i]] = max_now[i];
      total.sum[row[i]] = sum_now[i];
      const Vec k = broadcast(keep[i]);
      const Vec t = broadcast(take[i]);
      for (int d = 0; d < stride; d += kWidth) {
        store(to + d, fma(load(from + d), t, load(to + d) * k));
      }
    }
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
