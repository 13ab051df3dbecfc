#include "device/check.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/gemm_plain.h"
#include "device/cuda/launch.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/product_args.cuh"

namespace moba::cuda {
namespace {

constexpr int kTile = 64;   // rows and columns of the output that a block makes
constexpr int kTerms = 16;  // of the sums, at a time
constexpr int kSide = 16;   // threads along each side of the tile
constexpr int kEach = kTile / kSide;
constexpr int kThreads = kSide * kSide;

// Thread (i, j) makes rows i, i + kSide ... and columns j, j + kSide ... of the tile.
template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads) plain_gemm_kernel(ProductArgs<T, Out> args) {
  // A column more than needed, so that rows lie in different banks.
  __shared__ float x[kTile][kTerms + 1];
  __shared__ float weight[kTile][kTerms + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int i = thread / kSide;
  const int j = thread % kSide;
  const int n0 = static_cast<int>(blockIdx.x) * kTile;
  const int m0 = static_cast<int>(blockIdx.y) * kTile;
  wait_for_predecessors();
  float sum[kEach][kEach] = {};
  for (int k0 = 0; k0 < args.k; k0 += kTerms) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int row = i + e * kSide;
      const int k = k0 + j;
      const bool has_term = k < args.k;
      x[row][j] =
          has_term && m0 + row < args.m ? to_float(args.x[(m0 + row) * args.x_stride + k]) : 0.0F;
      weight[row][j] = has_term && n0 + row < args.n
                           ? to_float(args.weight[(n0 + row) * args.weight_stride + k])
                           : 0.0F;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      float w[kEach];
#pragma unroll
      for (int c = 0; c < kEach; ++c) w[c] = weight[j + c * kSide][k];
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const float value = x[i + r * kSide][k];
#pragma unroll
        for (int c = 0; c < kEach; ++c) sum[r][c] += value * w[c];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      const int m = m0 + i + r * kSide;
      const int n = n0 + j + c * kSide;
      if (m < args.m && n < args.n) finish(args, m, n, sum[r][c]);
    }
  }
}

template <typename T, typename Out>
void launch_plain(cudaStream_t stream, const GemmProblem& p) {
  const dim3 blocks(static_cast<unsigned>((p.n + kTile - 1) / kTile),
                    static_cast<unsigned>((p.m + kTile - 1) / kTile));
  launch(stream, {blocks, dim3(kThreads)}, true, "plain_gemm_kernel", plain_gemm_kernel<T, Out>,
         product_args<T, Out>(p));
}

}  // namespace

bool is_unaligned(const GemmProblem& p) {
  constexpr std::uintptr_t kBytes = 16;
  const auto size = static_cast<std::int64_t>(dtype_size(p.dtype));
  const auto is_multiple = [&](std::int64_t elements) { return elements * size % kBytes == 0; };
  return (reinterpret_cast<std::uintptr_t>(p.x) | reinterpret_cast<std::uintptr_t>(p.weight)) %
                 kBytes !=
             0 ||
         !is_multiple(p.x_stride) || !is_multiple(p.weight_stride);
}

void plain_gemm(cudaStream_t stream, const GemmProblem& p) {
  // The grid's second dimension holds 65,535 blocks.
  MOBA_CHECK(p.m <= std::int64_t{65535} * kTile && p.n <= INT32_MAX && p.k <= INT32_MAX - kTerms,
             "linear: ", p.m, " x ", p.n, " x ", p.k, " with unaligned rows");
  if (p.m == 0 || p.n == 0) return;
  dispatch_float(p.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (p.out_dtype == p.dtype) {
      launch_plain<T, T>(stream, p);
    } else {
      launch_plain<T, float>(stream, p);
    }
  });
}

}  // namespace moba::cuda
