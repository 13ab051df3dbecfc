#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "device/check.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/gemv.h"
#include "device/cuda/launch.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/product_args.cuh"
#include "device/cuda/vec.cuh"

namespace moba::cuda {
namespace {

// Weights are read once, past the first-level cache, and are not wanted there again.
__device__ inline uint4 load_stream(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// d += a . b for 16 rows of a, 8 columns of b and 16 terms of the sum.
__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                           __nv_bfloat16 /*type*/) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                           __half /*type*/) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

constexpr int kWarps = 8;        // that share the sums of a tile
constexpr int kTileRows = 16;    // weight rows of a block: the rows of an mma
constexpr int kTileColumns = 8;  // rows of x: the columns of an mma
constexpr int kStep = 32;        // terms that a warp takes at a time, 8 to each lane
constexpr int kUnroll = 4;       // steps whose loads are in flight together

// Tensor cores are here for their width, not their speed: one mma takes up to 8 rows of x for the
// same weights, so all of them cost what one does. A lane loads 16 bytes in a row of its operand;
// the mma's order of terms is another one, but the same for both operands, and a sum does not mind.
//
// A block makes kTileRows columns of the output; its warps take every kWarps-th piece of the sum.
template <typename T, typename Out>
__global__ void __launch_bounds__(kWarps * 32, 3) gemv_mma_kernel(ProductArgs<T, Out> args) {
  __shared__ float partial[kWarps][kTileRows][kTileColumns];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = lane / 4;     // the lane's row of weights (and the one 8 below)
  const int term = lane % 4 * 8;  // its first term in a step
  const int n0 = static_cast<int>(blockIdx.x) * kTileRows;

  start_successors();
  // Past the end of the weights the last row is read again; what it gives is not written.
  const T* const row0 =
      args.weight + std::int64_t{min(n0 + group, args.n - 1)} * args.weight_stride + term;
  const T* const row1 =
      args.weight + std::int64_t{min(n0 + group + 8, args.n - 1)} * args.weight_stride + term;
  const bool has_x = group < args.m;
  const T* const x = args.x + std::int64_t{has_x ? group : 0} * args.x_stride + term;

  constexpr int kPiece = kStep * kUnroll;
  uint4 w0[kUnroll];
  uint4 w1[kUnroll];
  const auto load_weights = [&](int k) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = k + u * kStep;
      const bool inside = at + term < args.k;
      w0[u] = inside ? load_stream(row0 + at) : uint4{0, 0, 0, 0};
      w1[u] = inside ? load_stream(row1 + at) : uint4{0, 0, 0, 0};
    }
  };

  float sum[4] = {0, 0, 0, 0};
  int k = warp * kPiece;
  if (k < args.k) load_weights(k);  // before what makes x has ended
  wait_for_predecessors();
  while (k < args.k) {
    uint4 xv[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = k + u * kStep;
      xv[u] =
          has_x && at + term < args.k ? *reinterpret_cast<const uint4*>(x + at) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::uint32_t a_low[4] = {w0[u].x, w1[u].x, w0[u].y, w1[u].y};
      const std::uint32_t b_low[2] = {xv[u].x, xv[u].y};
      mma(sum, a_low, b_low, T());
      const std::uint32_t a_high[4] = {w0[u].z, w1[u].z, w0[u].w, w1[u].w};
      const std::uint32_t b_high[2] = {xv[u].z, xv[u].w};
      mma(sum, a_high, b_high, T());
    }
    k += kWarps * kPiece;
    if (k < args.k) load_weights(k);
  }

  const int column = lane % 4 * 2;
  partial[warp][group][column] = sum[0];
  partial[warp][group][column + 1] = sum[1];
  partial[warp][group + 8][column] = sum[2];
  partial[warp][group + 8][column + 1] = sum[3];
  __syncthreads();
  // Neighbouring threads write neighbouring columns of the output.
  const int n = static_cast<int>(threadIdx.x) % kTileRows;
  const int m = static_cast<int>(threadIdx.x) / kTileRows;
  if (m >= args.m || n0 + n >= args.n) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += partial[w][n][m];
  finish(args, m, n0 + n, total);
}

// For any dtype and alignment: a warp makes a column of the output.
template <typename T, typename Out>
__global__ void gemv_plain_kernel(ProductArgs<T, Out> args) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int n = static_cast<int>(blockIdx.x) * kWarps + warp;
  start_successors();
  wait_for_predecessors();
  if (n >= args.n) return;
  const T* const weight = args.weight + n * args.weight_stride;
  float sum[kMaxGemvRows] = {};
#pragma unroll 4
  for (int k = lane; k < args.k; k += 32) {
    const float w = to_float(weight[k]);
#pragma unroll
    for (int m = 0; m < kMaxGemvRows; ++m) {
      if (m < args.m) sum[m] += w * to_float(args.x[m * args.x_stride + k]);
    }
  }
#pragma unroll
  for (int m = 0; m < kMaxGemvRows; ++m) {
    const float total = warp_sum(sum[m]);
    if (m < args.m && lane == 0) finish(args, m, n, total);
  }
}

template <typename T>
bool fits_mma(const GemmProblem& p) {
  constexpr std::int64_t kElements = 16 / static_cast<std::int64_t>(sizeof(T));
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
  };
  return aligned(p.x) && aligned(p.weight) && p.k % kElements == 0 && p.x_stride % kElements == 0 &&
         p.weight_stride % kElements == 0;
}

template <typename T, typename Out>
void launch_gemv(cudaStream_t stream, const GemmProblem& p) {
  const ProductArgs<T, Out> args = product_args<T, Out>(p);
  const auto blocks = [&](std::int64_t columns) {
    return dim3(static_cast<unsigned>((p.n + columns - 1) / columns));
  };
  const dim3 threads(kWarps * 32);
  if constexpr (sizeof(T) == 2) {
    if (fits_mma<T>(p)) {
      launch(stream, {blocks(kTileRows), threads}, true, "gemv_mma_kernel", gemv_mma_kernel<T, Out>,
             args);
      return;
    }
  }
  launch(stream, {blocks(kWarps), threads}, true, "gemv_plain_kernel", gemv_plain_kernel<T, Out>,
         args);
}

}  // namespace

void gemv(cudaStream_t stream, const GemmProblem& p) {
  MOBA_CHECK(p.m <= kMaxGemvRows && p.n <= INT32_MAX && p.k <= INT32_MAX, "gemv: ", p.m, " x ", p.n,
             " x ", p.k);
  if (p.m == 0 || p.n == 0) return;
  dispatch_float(p.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (p.out_dtype == p.dtype) {
      launch_gemv<T, T>(stream, p);
    } else {
      launch_gemv<T, float>(stream, p);
    }
  });
}

}  // namespace moba::cuda
