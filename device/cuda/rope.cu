#include <algorithm>
#include <cstdint>

#include "device/cuda/cuda_context.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/launch.h"
#include "device/cuda/ops_cuda.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/vec.cuh"

namespace moba::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void rope_cos_sin_kernel(const std::int32_t* positions, const float* inv_freq,
                                    float scaling, float* cos_sin, std::int64_t count,
                                    std::int64_t half) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count * half) return;
  const std::int64_t t = index / half;
  const std::int64_t i = index % half;
  const float angle = static_cast<float>(positions[t]) * inv_freq[i];
  float* const row = cos_sin + t * 2 * half;
  row[i] = cosf(angle) * scaling;
  row[i + half] = sinf(angle) * scaling;
}

// A thread turns one pair; a row of cos_sin that does not exist makes its pairs NaN.
template <typename T>
__global__ void rope_kernel(const std::int32_t* positions, const float* cos_sin,
                            std::int64_t num_rows, T* x, std::int64_t num_tokens,
                            std::int64_t heads, std::int64_t half, std::int64_t x_stride) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= num_tokens * heads * half) return;
  const std::int64_t i = index % half;
  const std::int64_t head = index / half % heads;
  const std::int64_t t = index / half / heads;
  const std::int64_t position = positions[t];
  const bool inside = position >= 0 && position < num_rows;
  const float* const row = cos_sin + (inside ? position : 0) * 2 * half;
  const float nan = __int_as_float(0x7fc00000);
  const float c = inside ? row[i] : nan;
  const float s = inside ? row[i + half] : nan;
  T* const pair = x + t * x_stride + head * 2 * half + i;
  const float a = to_float(pair[0]);
  const float b = to_float(pair[half]);
  pair[0] = from_float<T>(a * c - b * s);
  pair[half] = from_float<T>(b * c + a * s);
}

unsigned blocks_of(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void rope_cos_sin(DeviceContext& context, const TensorView& positions, const TensorView& inv_freq,
                  float scaling, const TensorView& cos_sin) {
  const std::int64_t count = positions.dim(0);
  const std::int64_t half = inv_freq.dim(0);
  if (count == 0 || half == 0) return;
  launch(context.cuda()->stream(), {dim3(blocks_of(count * half)), dim3(kThreads)}, true,
         "rope_cos_sin_kernel", rope_cos_sin_kernel,
         static_cast<const std::int32_t*>(positions.raw()),
         static_cast<const float*>(inv_freq.raw()), scaling, static_cast<float*>(cos_sin.raw()),
         count, half);
}

void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x) {
  const std::int64_t half = x.dim(2) / 2;
  const std::int64_t threads = x.dim(0) * x.dim(1) * half;
  if (threads == 0) return;
  dispatch_float(x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context.cuda()->stream(), {dim3(blocks_of(threads)), dim3(kThreads)}, true,
           "rope_kernel", rope_kernel<T>, static_cast<const std::int32_t*>(positions.raw()),
           static_cast<const float*>(cos_sin.raw()), cos_sin.dim(0), static_cast<T*>(x.raw()),
           x.dim(0), x.dim(1), half, x.row_stride());
  });
}

}  // namespace moba::cuda
