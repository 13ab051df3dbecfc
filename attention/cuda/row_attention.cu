#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/row_attention.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr unsigned kAll = 0xffffffffU;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(__nv_bfloat16* p, float x) { *p = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store(__half* p, float x) { *p = __float2half_rn(x); }

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, step));
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <typename T>
__device__ __forceinline__ float dot(const float* q, const T* k, int head_dim) {
  float sum = 0;
  for (int d = 0; d < head_dim; ++d) sum = fmaf(q[d], to_float(k[d]), sum);
  return sum;
}

// The row's running softmax; the lane's elements are lane, lane + 32, ...
template <int kPerLane>
struct RowState {
  float out[kPerLane] = {};
  float largest = -INFINITY;
  float sum = 0;
};

// Keys [begin, end) of the sequence.
template <typename T, int kPerLane>
__device__ void attend(const RowAttentionParams& p, const std::int32_t* table, int kv_head,
                       const float* q, int begin, int end, int lane, RowState<kPerLane>& state) {
  const T* keys = static_cast<const T*>(p.pages.k);
  const T* values = static_cast<const T*>(p.pages.v);
  const int head_dim = p.heads.head_dim;
  for (int first = begin; first < end; first += 32) {
    const int key = first + lane;
    float s = -INFINITY;
    std::int64_t offset = 0;
    if (key < end) {
      const int logical = key / p.pages.block_size_div;
      offset = table[logical] * p.pages.page_stride + kv_head * p.pages.head_stride +
               static_cast<std::int64_t>(key - logical * p.pages.block_size) * head_dim;
      s = dot(q, keys + offset, head_dim) * p.heads.scale_log2;
    }
    const float largest = fmaxf(state.largest, warp_max(s));
    const float correction = exp2f(state.largest - largest);
    const float weight = exp2f(s - largest);
    state.largest = largest;
    state.sum = state.sum * correction + warp_sum(weight);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) state.out[i] *= correction;
    const int count = min(32, end - first);
    for (int j = 0; j < count; ++j) {
      const float w = __shfl_sync(kAll, weight, j);
      const T* value = values + __shfl_sync(kAll, offset, j);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int d = i * 32 + lane;
        if (d < head_dim) state.out[i] = fmaf(w, to_float(value[d]), state.out[i]);
      }
    }
  }
}

// The `keep` best of blocks [0, own): lane i gets the i-th best, by score, of equal ones the later.
template <typename T>
__device__ int choose_blocks(const RowAttentionParams& p, const std::int32_t* table, int kv_head,
                             const float* q, int own, int keep, int lane) {
  const T* centroids = static_cast<const T*>(p.pages.centroids);
  float best = -INFINITY;
  int best_block = -1;
  for (int first = 0; first < own; first += 32) {
    const int block = first + lane;
    float s = 0;
    if (block < own) {
      const std::int64_t page = table[(block + 1) * p.pages.pages_per_moba_block - 1];
      s = dot(q, centroids + (page * p.heads.num_kv_heads + kv_head) * p.heads.head_dim,
              p.heads.head_dim);
    }
    const int count = min(32, own - first);
    for (int j = 0; j < count; ++j) {
      const float score = __shfl_sync(kAll, s, j);
      // Blocks come in ascending order: an equal score goes before.
      const unsigned better = __ballot_sync(kAll, best_block >= 0 && best > score);
      const int place = __popc(better);
      const float previous = __shfl_up_sync(kAll, best, 1);
      const int previous_block = __shfl_up_sync(kAll, best_block, 1);
      if (lane > place) {
        best = previous;
        best_block = previous_block;
      } else if (lane == place) {
        best = score;
        best_block = first + j;
      }
      if (lane >= keep) best_block = -1;
    }
  }
  return best_block;
}

template <typename T, int kPerLane>
__global__ void __launch_bounds__(kThreads)
    row_attention_kernel(const __grid_constant__ RowAttentionParams p) {
  __shared__ float queries[kWarps][kPerLane * 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head_dim = p.heads.head_dim;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  const auto token = static_cast<int>(row / p.heads.num_q_heads);
  const auto head = static_cast<int>(row % p.heads.num_q_heads);
  if (token >= p.batch.cu_seqlens_q[p.batch.num_seqs]) return;
  int seq = 0;
  for (int low = 0, high = p.batch.num_seqs - 1; low <= high;) {
    const int middle = (low + high) / 2;
    if (p.batch.cu_seqlens_q[middle] <= token) {
      seq = middle;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  const std::int32_t* table = p.batch.tables + p.batch.table_begin[seq];
  const int position = p.batch.seq_lens[seq] - (p.batch.cu_seqlens_q[seq + 1] - token);
  const int kv_head = head / p.heads.group_div;
  float* q = queries[warp];
  for (int d = lane; d < head_dim; d += 32) {
    q[d] = to_float(static_cast<const T*>(p.q)[row * head_dim + d]);
  }
  __syncwarp();

  RowState<kPerLane> state;
  const int topk = p.topk[seq];
  const int block_keys = p.pages.moba_block_size;
  const int own = position / p.pages.moba_block_div;
  if (topk == 0 || own < topk) {
    attend<T>(p, table, kv_head, q, 0, position + 1, lane, state);
  } else {
    if (topk > 1) {
      const int chosen = choose_blocks<T>(p, table, kv_head, q, own, topk - 1, lane);
      for (int i = 0; i < topk - 1; ++i) {
        const int block = __shfl_sync(kAll, chosen, i);
        attend<T>(p, table, kv_head, q, block * block_keys, (block + 1) * block_keys, lane, state);
      }
    }
    attend<T>(p, table, kv_head, q, own * block_keys, position + 1, lane, state);
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int d = i * 32 + lane;
    if (d < head_dim) store(static_cast<T*>(p.out) + row * head_dim + d, state.out[i] / state.sum);
  }
}

template <typename T>
void launch(const RowAttentionParams& params, cudaStream_t stream) {
  const std::int64_t rows = std::int64_t{params.max_tokens} * params.heads.num_q_heads;
  const auto grid = static_cast<unsigned>((rows + kWarps - 1) / kWarps);
  if (params.heads.head_dim <= 128) {
    row_attention_kernel<T, 4><<<grid, kThreads, 0, stream>>>(params);
  } else {
    MOBA_CHECK(params.heads.head_dim <= kMaxRowHeadDim, "attention: no kernel for head_dim ",
               params.heads.head_dim);
    row_attention_kernel<T, 8><<<grid, kThreads, 0, stream>>>(params);
  }
  MOBA_CUDA_LAUNCH_CHECK(row_attention_kernel);
}

}  // namespace

void launch_row_attention(const RowAttentionParams& params, DType dtype, cudaStream_t stream) {
  if (params.max_tokens == 0) return;
  switch (dtype) {
    case DType::kFloat32:
      return launch<float>(params, stream);
    case DType::kBFloat16:
      return launch<__nv_bfloat16>(params, stream);
    case DType::kFloat16:
      return launch<__half>(params, stream);
    default:
      throw Error(concat("attention: no kernel for ", dtype_name(dtype)));
  }
}

}  // namespace moba::cuda
