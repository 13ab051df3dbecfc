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

template <typename T, typename W>
struct NormArgs {
  const T* x;
  T* residual;  // x is added to it first, and it is what is normalised; null: x is
  const W* weight;
  T* out;
  std::int64_t x_stride;
  std::int64_t residual_stride;
  std::int64_t out_stride;
  int n;
  float eps;
};

constexpr int kMaxThreads = 512;

// A block normalises a row. As Llama's RMSNorm, the normalised value is rounded to T before the
// product with the weight. A thread keeps kPieces times 16 bytes of the row in registers.
template <typename T, typename W, int kPieces>
__global__ void __launch_bounds__(kMaxThreads) norm_kernel(NormArgs<T, W> args) {
  __shared__ float scratch[32];
  using V = Vec<T>;
  const std::int64_t row = blockIdx.x;
  const int first = static_cast<int>(threadIdx.x) * V::kElements;
  const int step = static_cast<int>(blockDim.x) * V::kElements;
  start_successors();
  wait_for_predecessors();
  V pieces[kPieces];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = first + p * step;
    if (i >= args.n) break;
    pieces[p] = V::load(args.x + row * args.x_stride + i);
    if (args.residual != nullptr) {
      T* const residual = args.residual + row * args.residual_stride + i;
      const V before = V::load(residual);
#pragma unroll
      for (int e = 0; e < V::kElements; ++e) {
        pieces[p].v[e] = from_float<T>(to_float(before.v[e]) + to_float(pieces[p].v[e]));
      }
      pieces[p].store(residual);
    }
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) {
      const float value = to_float(pieces[p].v[e]);
      squares += value * value;
    }
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(args.n);
  const float scale = 1.0F / sqrtf(mean + args.eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = first + p * step;
    if (i >= args.n) break;
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) {
      const float normed = round_to<T>(to_float(pieces[p].v[e]) * scale);
      pieces[p].v[e] = from_float<T>(normed * to_float(args.weight[i + e]));
    }
    pieces[p].store(args.out + row * args.out_stride + i);
  }
}

// Rows of any length and alignment.
template <typename T, typename W>
__global__ void __launch_bounds__(kMaxThreads) norm_plain_kernel(NormArgs<T, W> args) {
  __shared__ float scratch[32];
  const std::int64_t row = blockIdx.x;
  const T* const x = args.x + row * args.x_stride;
  T* const residual = args.residual + row * args.residual_stride;
  T* const out = args.out + row * args.out_stride;
  start_successors();
  wait_for_predecessors();
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < args.n; i += static_cast<int>(blockDim.x)) {
    float value = to_float(x[i]);
    if (args.residual != nullptr) {
      value = round_to<T>(to_float(residual[i]) + value);
      residual[i] = from_float<T>(value);
    }
    squares += value * value;
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(args.n);
  const float scale = 1.0F / sqrtf(mean + args.eps);
  for (int i = static_cast<int>(threadIdx.x); i < args.n; i += static_cast<int>(blockDim.x)) {
    const float value = to_float(args.residual != nullptr ? residual[i] : x[i]);
    out[i] = from_float<T>(round_to<T>(value * scale) * to_float(args.weight[i]));
  }
}

int round_up_to_warp(std::int64_t threads) { return static_cast<int>((threads + 31) / 32 * 32); }

template <typename T, typename W>
void launch_norm(cudaStream_t stream, std::int64_t rows, const NormArgs<T, W>& args) {
  if (rows == 0 || args.n == 0) return;
  constexpr int kElements = Vec<T>::kElements;
  const auto fits = [](const void* pointer, std::int64_t stride) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && stride % kElements == 0;
  };
  const std::int64_t pieces = args.n / kElements;
  const dim3 grid(static_cast<unsigned>(rows));
  const bool vectors = args.n % kElements == 0 && fits(args.x, args.x_stride) &&
                       fits(args.residual, args.residual_stride) &&
                       fits(args.out, args.out_stride) && pieces <= 8 * kMaxThreads;
  if (!vectors) {
    const dim3 threads(static_cast<unsigned>(std::min(kMaxThreads, round_up_to_warp(args.n))));
    launch(stream, {grid, threads}, true, "norm_plain_kernel", norm_plain_kernel<T, W>, args);
    return;
  }
  const dim3 threads(static_cast<unsigned>(std::min(kMaxThreads, round_up_to_warp(pieces))));
  const std::int64_t per_thread = (pieces + threads.x - 1) / threads.x;
  if (per_thread <= 1) {
    launch(stream, {grid, threads}, true, "norm_kernel", norm_kernel<T, W, 1>, args);
  } else if (per_thread <= 2) {
    launch(stream, {grid, threads}, true, "norm_kernel", norm_kernel<T, W, 2>, args);
  } else {
    launch(stream, {grid, threads}, true, "norm_kernel", norm_kernel<T, W, 8>, args);
  }
}

void norm(DeviceContext& context, const TensorView& x, const TensorView& residual,
          const TensorView& weight, float eps, const TensorView& out) {
  dispatch_float(x.dtype(), [&](auto x_tag) {
    dispatch_float(weight.dtype(), [&](auto weight_tag) {
      using T = typename decltype(x_tag)::type;
      using W = typename decltype(weight_tag)::type;
      const NormArgs<T, W> args{static_cast<const T*>(x.raw()),
                                static_cast<T*>(residual.raw()),
                                static_cast<const W*>(weight.raw()),
                                static_cast<T*>(out.raw()),
                                x.row_stride(),
                                residual.empty() ? 0 : residual.row_stride(),
                                out.row_stride(),
                                static_cast<int>(x.dim(1)),
                                eps};
      launch_norm(context.cuda()->stream(), x.dim(0), args);
    });
  });
}

}  // namespace

void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out) {
  norm(context, x, TensorView(), weight, eps, out);
}

void add_rms_norm(DeviceContext& context, const TensorView& x, const TensorView& residual,
                  const TensorView& weight, float eps, const TensorView& out) {
  norm(context, x, residual, weight, eps, out);
}

}  // namespace moba::cuda
