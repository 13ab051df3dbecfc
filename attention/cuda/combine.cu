#include "attention/cuda/combine.h"
#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "device/check.h"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

constexpr int kThreads = 256;

// A thread for eight elements of a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ CombineParams p, FastDiv pieces_div, FastDiv heads_div) {
  const int pieces = p.head_dim / 8;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.num_rows * pieces) return;
  const int local = static_cast<int>(index) / pieces_div;
  const int piece = static_cast<int>(index) - local * pieces;
  const std::int64_t row = p.partials.first_row + local;
  const int slots = p.token_slots[static_cast<int>(row) / heads_div];
  if (slots == 0) return;
  const std::int64_t first = static_cast<std::int64_t>(local) * p.partials.slots;
  const float* lse = p.partials.lse + first;
  const uint4* partial =
      reinterpret_cast<const uint4*>(static_cast<const T*>(p.partials.out) + first * p.head_dim) +
      piece;
  float largest = -INFINITY;
  for (int s = 0; s < slots; ++s) largest = fmaxf(largest, __ldg(lse + s));
  float sum = 0;
  float out[8] = {};
#pragma unroll 4
  for (int s = 0; s < slots; ++s) {
    const float weight = exp2_fast(__ldg(lse + s) - largest);
    const uint4 x = __ldcs(partial + static_cast<std::int64_t>(s) * pieces);
    sum += weight;
    const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack2<T>(words[i]);
      out[2 * i] += weight * pair.x;
      out[2 * i + 1] += weight * pair.y;
    }
  }
  const float inverse = 1.0F / sum;
  uint4 result;
  result.x = pack2<T>(out[0] * inverse, out[1] * inverse);
  result.y = pack2<T>(out[2] * inverse, out[3] * inverse);
  result.z = pack2<T>(out[4] * inverse, out[5] * inverse);
  result.w = pack2<T>(out[6] * inverse, out[7] * inverse);
  reinterpret_cast<uint4*>(static_cast<T*>(p.out) + row * p.head_dim)[piece] = result;
}

}  // namespace

void launch_combine(const CombineParams& params, DType dtype, cudaStream_t stream) {
  const int pieces = params.head_dim / 8;
  const std::int64_t blocks = (params.num_rows * pieces + kThreads - 1) / kThreads;
  const FastDiv pieces_div(static_cast<std::uint32_t>(pieces));
  const FastDiv heads_div(static_cast<std::uint32_t>(params.num_q_heads));
  if (blocks == 0) return;
  if (dtype == DType::kBFloat16) {
    combine_kernel<__nv_bfloat16>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(params, pieces_div, heads_div);
  } else {
    MOBA_CHECK(dtype == DType::kFloat16, "attention: no combine for ", dtype_name(dtype));
    combine_kernel<__half>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(params, pieces_div, heads_div);
  }
  MOBA_CUDA_LAUNCH_CHECK(combine_kernel);
}

}  // namespace moba::cuda
