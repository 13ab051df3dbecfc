#include <cfloat>
#include <climits>

#include "attention/cuda/dispatch.h"
#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "attention/cuda/tile_attention.h"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowTilesPerWarp = kTileRows / (16 * kWarps);  // of 16 rows
constexpr int kTileKeys = 64;

template <int D>
constexpr int kSharedBytes = (kTileRows + 2 * kTileKeys) * kRowBytes<D>;

// What a tile of either kind comes down to.
struct TileWork {
  const std::int32_t* table;  // page ids of the sequence
  int kv_head;
  int num_rows;
  int key_begin;
  int key_end;
  int unmasked_begin;  // keys [unmasked_begin, unmasked_end) are seen by every row
  int unmasked_end;
};

// Keys or values [first, first + kTileKeys) to shared memory; zeros from key_end on.
template <typename T, int D>
__device__ __forceinline__ void load_keys(const KvPages& pages, const void* base,
                                          const TileWork& work, int head_dim, int first,
                                          std::uint32_t smem) {
  constexpr int kChunks = D / 8;
#pragma unroll
  for (int i = 0; i < kTileKeys * kChunks / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kChunks;
    const int chunk = index % kChunks;
    const int key = first + row;
    const bool valid = key < work.key_end && chunk * 8 < head_dim;
    const T* source = static_cast<const T*>(base);
    if (valid) {
      const int logical = key / pages.block_size_div;
      const std::int64_t page = __ldg(work.table + logical);
      source += page * pages.page_stride + work.kv_head * pages.head_stride +
                static_cast<std::int64_t>(key - logical * pages.block_size) * head_dim + chunk * 8;
    }
    cp_async_16(smem + static_cast<std::uint32_t>(row * kRowBytes<D> + chunk * 16), source, valid);
  }
}

template <typename T, int D, bool kListed>
__global__ void __launch_bounds__(kThreads)
    tile_attention_kernel(const __grid_constant__ TileAttentionParams p) {
  constexpr int kMT = kRowTilesPerWarp;
  constexpr int kNT = kTileKeys / 8;
  constexpr int kDT = D / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ std::int64_t row_index[kTileRows];  // token * num_q_heads + head; -1: no row
  __shared__ std::int64_t row_partial[kTileRows];
  const std::uint32_t smem_q = smem_address(shared);
  const std::uint32_t smem_k = smem_q + kTileRows * kRowBytes<D>;
  const std::uint32_t smem_v = smem_k + kTileKeys * kRowBytes<D>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head_dim = p.heads.head_dim;

  const int num_tiles = kListed ? *p.num_list_tiles : p.num_row_tiles;
  for (int tile = static_cast<int>(blockIdx.x); tile < num_tiles;
       tile += static_cast<int>(gridDim.x)) {
    // The rows: where they are, and (rows in order) which keys each may see.
    TileWork work;
    int position[kMT][2];
    int window_begin[kMT][2];
    if constexpr (kListed) {
      const ListTile t = p.list_tiles[tile];
      work.table = p.batch.tables + p.batch.table_begin[t.seq];
      work.kv_head = t.kv_head;
      work.num_rows = t.num_rows;
      work.key_begin = t.block * p.pages.moba_block_size;
      work.key_end = work.key_begin + p.pages.moba_block_size;
      work.unmasked_begin = work.key_begin;
      work.unmasked_end = work.key_end;
      for (int r = static_cast<int>(threadIdx.x); r < kTileRows; r += kThreads) {
        std::int64_t index = -1;
        std::int64_t partial = 0;
        if (r < t.num_rows) {
          const std::uint32_t entry = p.entries[t.first_entry + r];
          index = entry >> kSlotBits;
          partial = (index - p.partials.first_row) * p.partials.slots + (entry & (kMaxSlots - 1));
        }
        row_index[r] = index;
        row_partial[r] = partial;
      }
    } else {
      const RowTile t = p.row_tiles[tile];
      const int first_token = p.batch.cu_seqlens_q[t.seq];
      const int num_tokens = p.batch.cu_seqlens_q[t.seq + 1] - first_token;
      const int first_position = p.batch.seq_lens[t.seq] - num_tokens;
      work.table = p.batch.tables + p.batch.table_begin[t.seq];
      work.kv_head = t.kv_head;
      work.num_rows = t.num_rows;
      work.key_begin = t.key_begin;
      work.key_end = t.key_end;
      const auto window_of = [&](int pos) {
        return p.window > 0 ? pos / p.pages.moba_block_div * p.window : 0;
      };
      const int last_row = t.first_row + t.num_rows - 1;
      work.unmasked_begin = window_of(first_position + last_row / p.heads.group_div);
      work.unmasked_end = min(t.key_end, first_position + t.first_row / p.heads.group_div + 1);
      for (int r = static_cast<int>(threadIdx.x); r < kTileRows; r += kThreads) {
        std::int64_t index = -1;
        if (r < t.num_rows) {
          const int token = (t.first_row + r) / p.heads.group_div;
          const int head = t.kv_head * p.heads.group + t.first_row + r - token * p.heads.group;
          index = static_cast<std::int64_t>(first_token + token) * p.heads.num_q_heads + head;
        }
        row_index[r] = index;
        row_partial[r] = (index - p.partials.first_row) * p.partials.slots + p.partial_slot;
      }
#pragma unroll
      for (int m = 0; m < kMT; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int r = warp * 16 * kMT + m * 16 + h * 8 + lane / 4;
          const int pos =
              first_position + (t.first_row + min(r, t.num_rows - 1)) / p.heads.group_div;
          position[m][h] = min(pos, t.key_end - 1);
          window_begin[m][h] = window_of(pos);
        }
      }
    }
    __syncthreads();

    // Q. A warp reads only its own rows of it.
    {
      constexpr int kChunks = D / 8;
      const T* q = static_cast<const T*>(p.q);
      for (int i = lane; i < 16 * kMT * kChunks; i += 32) {
        const int row = warp * 16 * kMT + i / kChunks;
        const int chunk = i % kChunks;
        const std::int64_t index = row_index[row];
        const bool valid = index >= 0 && chunk * 8 < head_dim;
        cp_async_16(smem_q + static_cast<std::uint32_t>(row * kRowBytes<D> + chunk * 16),
                    valid ? q + index * head_dim + chunk * 8 : q, valid);
      }
    }
    load_keys<T, D>(p.pages, p.pages.k, work, head_dim, work.key_begin, smem_k);
    cp_async_commit();

    float out[kMT][kDT][4] = {};
    float row_max[kMT][2];
    float row_sum[kMT][2] = {};
#pragma unroll
    for (int m = 0; m < kMT; ++m) row_max[m][0] = row_max[m][1] = -INFINITY;

    for (int first = work.key_begin; first < work.key_end; first += kTileKeys) {
      cp_async_wait<0>();
      __syncthreads();
      load_keys<T, D>(p.pages, p.pages.v, work, head_dim, first, smem_v);
      cp_async_commit();

      float s[kMT][kNT][4] = {};
#pragma unroll
      for (int ks = 0; ks < D / 16; ++ks) {
        std::uint32_t a[kMT][4];
#pragma unroll
        for (int m = 0; m < kMT; ++m) {
          const int row = warp * 16 * kMT + m * 16 + (lane / 8 % 2) * 8 + lane % 8;
          ldmatrix_x4(a[m], smem_q + static_cast<std::uint32_t>(row * kRowBytes<D> + ks * 32 +
                                                                lane / 16 * 16));
        }
#pragma unroll
        for (int n = 0; n < kNT; n += 2) {
          const int row = n * 8 + lane / 16 * 8 + lane % 8;
          std::uint32_t b[4];
          ldmatrix_x4(b, smem_k + static_cast<std::uint32_t>(row * kRowBytes<D> + ks * 32 +
                                                             (lane / 8 % 2) * 16));
#pragma unroll
          for (int m = 0; m < kMT; ++m) {
            mma_16816<T>(s[m][n], a[m], b[0], b[1]);
            mma_16816<T>(s[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }

      if (first < work.unmasked_begin || first + kTileKeys > work.unmasked_end) {
#pragma unroll
        for (int m = 0; m < kMT; ++m) {
#pragma unroll
          for (int n = 0; n < kNT; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int key = first + n * 8 + lane % 4 * 2 + e % 2;
              bool seen;
              if constexpr (kListed) {
                seen = key < work.key_end;
              } else {
                seen = key >= window_begin[m][e / 2] && key <= position[m][e / 2];
              }
              if (!seen) s[m][n][e] = -INFINITY;
            }
          }
        }
      }

      // Online softmax, in units of log2.
#pragma unroll
      for (int m = 0; m < kMT; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float largest = fmaxf(s[m][0][2 * h], s[m][0][2 * h + 1]);
#pragma unroll
          for (int n = 1; n < kNT; ++n) {
            largest = fmaxf(largest, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
          }
          // Scaled once and kept so: of an unchanged maximum the correction is exactly 1.
          largest = fmaxf(row_max[m][h], quad_max(largest) * p.heads.scale_log2);
          const float base = largest == -INFINITY ? 0.0F : largest;
          const float correction = exp2_fast(row_max[m][h] - base);
          row_max[m][h] = largest;
          float sum = row_sum[m][h] * correction;
#pragma unroll
          for (int n = 0; n < kNT; ++n) {
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e) {
              s[m][n][e] = exp2_fast(fmaf(s[m][n][e], p.heads.scale_log2, -base));
              sum += s[m][n][e];
            }
          }
          row_sum[m][h] = sum;
#pragma unroll
          for (int d = 0; d < kDT; ++d) {
            out[m][d][2 * h] *= correction;
            out[m][d][2 * h + 1] *= correction;
          }
        }
      }

      cp_async_wait<0>();
      __syncthreads();
      if (first + kTileKeys < work.key_end) {
        load_keys<T, D>(p.pages, p.pages.k, work, head_dim, first + kTileKeys, smem_k);
        cp_async_commit();
      }
#pragma unroll
      for (int ks = 0; ks < kTileKeys / 16; ++ks) {
        std::uint32_t a[kMT][4];
#pragma unroll
        for (int m = 0; m < kMT; ++m) {
          a[m][0] = pack2<T>(s[m][2 * ks][0], s[m][2 * ks][1]);
          a[m][1] = pack2<T>(s[m][2 * ks][2], s[m][2 * ks][3]);
          a[m][2] = pack2<T>(s[m][2 * ks + 1][0], s[m][2 * ks + 1][1]);
          a[m][3] = pack2<T>(s[m][2 * ks + 1][2], s[m][2 * ks + 1][3]);
        }
#pragma unroll
        for (int d = 0; d < kDT; d += 2) {
          const int row = ks * 16 + (lane / 8 % 2) * 8 + lane % 8;
          std::uint32_t b[4];
          ldmatrix_x4_trans(
              b, smem_v + static_cast<std::uint32_t>(row * kRowBytes<D> + d * 16 + lane / 16 * 16));
#pragma unroll
          for (int m = 0; m < kMT; ++m) {
            mma_16816<T>(out[m][d], a[m], b[0], b[1]);
            mma_16816<T>(out[m][d + 1], a[m], b[2], b[3]);
          }
        }
      }
    }

    // Results, through the warp's own rows of Q's shared memory for whole lines.
    const bool to_partials = kListed || p.partial_slot >= 0;
#pragma unroll
    for (int m = 0; m < kMT; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float sum = quad_sum(row_sum[m][h]);
        const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
        const int row = warp * 16 * kMT + m * 16 + h * 8 + lane / 4;
#pragma unroll
        for (int d = 0; d < kDT; ++d) {
          *reinterpret_cast<std::uint32_t*>(shared + row * kRowBytes<D> + d * 16 + lane % 4 * 4) =
              pack2<T>(out[m][d][2 * h] * inverse, out[m][d][2 * h + 1] * inverse);
        }
        if (to_partials && lane % 4 == 0 && row_index[row] >= 0) {
          p.partials.lse[row_partial[row]] = sum > 0.0F ? row_max[m][h] + log2f(sum) : -INFINITY;
        }
      }
    }
    __syncwarp();
    {
      constexpr int kChunks = D / 8;
      T* base = static_cast<T*>(to_partials ? p.partials.out : p.out);
      for (int i = lane; i < 16 * kMT * kChunks; i += 32) {
        const int row = warp * 16 * kMT + i / kChunks;
        const int chunk = i % kChunks;
        if (row_index[row] < 0 || chunk * 8 >= head_dim) continue;
        const std::int64_t index = to_partials ? row_partial[row] : row_index[row];
        *reinterpret_cast<uint4*>(base + index * head_dim + chunk * 8) =
            *reinterpret_cast<const uint4*>(shared + row * kRowBytes<D> + chunk * 16);
      }
    }
    __syncthreads();
  }
}

template <typename T, int D, bool kListed>
void launch(const TileAttentionParams& params, int grid, cudaStream_t stream) {
  static_assert(kTileKeys * (D / 8) % kThreads == 0);
  MOBA_CUDA_CHECK(cudaFuncSetAttribute(tile_attention_kernel<T, D, kListed>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       kSharedBytes<D>));
  tile_attention_kernel<T, D, kListed><<<grid, kThreads, kSharedBytes<D>, stream>>>(params);
  MOBA_CUDA_LAUNCH_CHECK(tile_attention_kernel);
}

}  // namespace

void launch_row_tiles(const TileAttentionParams& params, DType dtype, cudaStream_t stream) {
  if (params.num_row_tiles == 0) return;
  dispatch_half(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    launch<T, D, false>(params, params.num_row_tiles, stream);
  });
}

void launch_list_tiles(const TileAttentionParams& params, DType dtype, int num_multiprocessors,
                       cudaStream_t stream) {
  dispatch_half(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    launch<T, D, true>(params, 2 * num_multiprocessors, stream);
  });
}

}  // namespace moba::cuda
