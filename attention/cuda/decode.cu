#include <algorithm>

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_units.cuh"
#include "attention/cuda/dependent_launch.cuh"
#include "attention/cuda/dispatch.h"
#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

// Warps of a block of threads and chunks that a warp has room for.
template <int kWarpCount, int kStageCount>
struct DecodeShape {
  static constexpr int kWarps = kWarpCount;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStages = kStageCount;
};
// One block a multiprocessor where shared memory is large, two where it is not.
using LargeShape = DecodeShape<8, 3>;
using SmallShape = DecodeShape<4, 2>;
constexpr int kLargeParts = 1;
constexpr int kSmallParts = 2;

template <int D>
constexpr int kStageBytes = 2 * kChunkKeys* kRowBytes<D>;
template <typename S, int D>
constexpr int kPipelineBytes = S::kWarps* S::kStages* kStageBytes<D>;

// Where warps put their results together.
template <int kWarps, int D>
struct MergeSpace {
  float out[kWarps][kUnitRows][D];
  float weight[kWarps][kUnitRows];
  float2 stats[kWarps][kUnitRows];  // maximum (base 2) and sum
  float2 total[kUnitRows];
};
// For combine_unit(), when one unit has all parts.
constexpr int combine_bytes(int num_parts) {
  return kUnitRows *
         (static_cast<int>(sizeof(float)) + num_parts * static_cast<int>(sizeof(float2)));
}

// A chunk of keys: where it lies and which rows may see it.
struct Chunk {
  std::int64_t offset;  // elements from the start of K and V
  int first_key;
  std::uint32_t rows;
};

template <bool kSelected>
__device__ __forceinline__ Chunk find_chunk(const DecodeParams& p, const DecodeUnit& unit,
                                            int index) {
  Chunk chunk{0, index * kChunkKeys, 0xffffffffU};
  if (kSelected && unit.num_selected > 0) {
    const int entry = index / p.chunks_per_block_div;
    chunk.first_key = __ldg(unit.blocks + entry) * p.pages.moba_block_size +
                      index % p.chunks_per_block_div * kChunkKeys;
    chunk.rows = __ldg(unit.masks + entry);
  }
  const int logical = chunk.first_key / p.pages.block_size_div;
  const std::int64_t page = __ldg(unit.table + logical);
  chunk.offset =
      page * p.pages.page_stride + unit.kv_head * p.pages.head_stride +
      static_cast<std::int64_t>(chunk.first_key - logical * p.pages.block_size) * p.heads.head_dim;
  return chunk;
}

// Keys and values of a chunk to a warp's stage; zeros past the sequence's end.
template <typename T, int D>
__device__ __forceinline__ void load_chunk(const DecodeParams& p, const Chunk& chunk, int num_keys,
                                           std::uint32_t smem, int lane) {
  constexpr int kPieces = D / 8;
  const T* k = static_cast<const T*>(p.pages.k) + chunk.offset;
  const T* v = static_cast<const T*>(p.pages.v) + chunk.offset;
#pragma unroll
  for (int i = 0; i < kChunkKeys * kPieces / 32; ++i) {
    const int row = (i * 32 + lane) / kPieces;
    const int piece = (i * 32 + lane) % kPieces;
    const bool valid = chunk.first_key + row < num_keys && piece * 8 < p.heads.head_dim;
    const int source = valid ? row * p.heads.head_dim + piece * 8 : 0;
    const auto target = smem + static_cast<std::uint32_t>(row * kRowBytes<D> + piece * 16);
    cp_async_16(target, k + source, valid);
    cp_async_16(target + kChunkKeys * kRowBytes<D>, v + source, valid);
  }
}

// One warp's running result for the unit's rows lane / 4 and lane / 4 + 8.
template <int D>
struct WarpState {
  float out[D / 8][4];
  float row_max[2];
  float row_sum[2];
};

template <typename T, int D>
__device__ __forceinline__ void attend_chunk(const DecodeParams& p,
                                             const std::uint32_t (&q)[D / 16][4],
                                             const Chunk& chunk, int num_keys, std::uint32_t smem,
                                             int lane, WarpState<D>& state) {
  float s[2][4] = {};
#pragma unroll
  for (int ks = 0; ks < D / 16; ++ks) {
    std::uint32_t b[4];
    const int row = lane / 16 * 8 + lane % 8;
    ldmatrix_x4(
        b, smem + static_cast<std::uint32_t>(row * kRowBytes<D> + ks * 32 + (lane / 8 % 2) * 16));
    mma_16816<T>(s[0], q[ks], b[0], b[1]);
    mma_16816<T>(s[1], q[ks], b[2], b[3]);
  }
  const bool whole = chunk.first_key + kChunkKeys <= num_keys;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool seen_row = (chunk.rows >> (lane / 4 + h * 8) & 1U) != 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = chunk.first_key + n * 8 + lane % 4 * 2 + e;
        if (!seen_row || (!whole && key >= num_keys)) s[n][2 * h + e] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float largest = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
    largest = fmaxf(state.row_max[h], quad_max(largest) * p.heads.scale_log2);
    const float base = largest == -INFINITY ? 0.0F : largest;
    const float correction = exp2_fast(state.row_max[h] - base);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 2 * h; e < 2 * h + 2; ++e) {
        s[n][e] = exp2_fast(s[n][e] * p.heads.scale_log2 - base);
        sum += s[n][e];
      }
    }
    state.row_sum[h] = state.row_sum[h] * correction + sum;
    if (__any_sync(0xffffffffU, state.row_max[h] != largest)) {
#pragma unroll
      for (int d = 0; d < D / 8; ++d) {
        state.out[d][2 * h] *= correction;
        state.out[d][2 * h + 1] *= correction;
      }
    }
    state.row_max[h] = largest;
  }
  const std::uint32_t a[4] = {pack2<T>(s[0][0], s[0][1]), pack2<T>(s[0][2], s[0][3]),
                              pack2<T>(s[1][0], s[1][1]), pack2<T>(s[1][2], s[1][3])};
#pragma unroll
  for (int d = 0; d < D / 8; d += 2) {
    std::uint32_t b[4];
    const int row = (lane / 8 % 2) * 8 + lane % 8;
    ldmatrix_x4_trans(b, smem + static_cast<std::uint32_t>((kChunkKeys + row) * kRowBytes<D> +
                                                           d * 16 + lane / 16 * 16));
    mma_16816<T>(state.out[d], a, b[0], b[1]);
    mma_16816<T>(state.out[d + 1], a, b[2], b[3]);
  }
}

// The unit's queries as fragments, rows past the unit's zero.
template <typename T, int D>
__device__ __forceinline__ void load_queries(const DecodeParams& p, const DecodeUnit& unit,
                                             int lane, std::uint32_t (&q)[D / 16][4]) {
  const T* base = static_cast<const T*>(p.q) + unit.first_query_row * p.heads.head_dim;
#pragma unroll
  for (int ks = 0; ks < D / 16; ++ks) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i % 2 * 8;
      const int column = ks * 16 + i / 2 * 8 + lane % 4 * 2;
      q[ks][i] =
          row < unit.num_rows && column < p.heads.head_dim
              ? *reinterpret_cast<const std::uint32_t*>(base + row * p.heads.head_dim + column)
              : 0U;
    }
  }
}

// What combine_unit() needs of shared memory: [num_pieces, kUnitRows] statistics, then weights.
struct CombineSpace {
  float2* stats;
  float* inverse;  // [kUnitRows]
};

// Puts the parts' pieces of a unit together and writes its rows. All threads of the block.
template <typename T, typename S>
__device__ void combine_unit(const DecodeParams& p, const DecodeUnit& unit, int first_part,
                             int last_part, const CombineSpace& space) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int head_dim = p.heads.head_dim;
  const int num_pieces = last_part - first_part + 1;
  // The first part ends in the unit's beginning: its piece is that part's second.
  const auto piece_of = [&](int i) { return 2 * (first_part + i) + (i == 0 ? 1 : 0); };
  for (int i = static_cast<int>(threadIdx.x); i < num_pieces * kUnitRows; i += S::kThreads) {
    space.stats[i] = __ldcg(p.part_stats + piece_of(i / kUnitRows) * kUnitRows + i % kUnitRows);
  }
  __syncthreads();
  for (int row = warp; row < unit.num_rows; row += S::kWarps) {
    float largest = -INFINITY;
    for (int i = lane; i < num_pieces; i += 32) {
      largest = fmaxf(largest, space.stats[i * kUnitRows + row].x);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, step));
    }
    float sum = 0;
    for (int i = lane; i < num_pieces; i += 32) {
      float2& stats = space.stats[i * kUnitRows + row];
      const float weight = stats.x == -INFINITY ? 0.0F : exp2_fast(stats.x - largest);
      sum += weight * stats.y;
      stats.x = weight;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffU, sum, step);
    if (lane == 0) space.inverse[row] = 1.0F / sum;
  }
  __syncthreads();
  T* out = static_cast<T*>(p.out) + unit.first_query_row * head_dim;
  const int quads = head_dim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < unit.num_rows * quads; i += S::kThreads) {
    const int row = i / quads;
    const int column = i % quads * 4;
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int piece = 0; piece < num_pieces; ++piece) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(
          p.part_out + (static_cast<std::int64_t>(piece_of(piece)) * kUnitRows + row) * head_dim +
          column));
      const float weight = space.stats[piece * kUnitRows + row].x;
      total.x = fmaf(weight, x.x, total.x);
      total.y = fmaf(weight, x.y, total.y);
      total.z = fmaf(weight, x.z, total.z);
      total.w = fmaf(weight, x.w, total.w);
    }
    const float inverse = space.inverse[row];
    uint2 packed;
    packed.x = pack2<T>(total.x * inverse, total.y * inverse);
    packed.y = pack2<T>(total.z * inverse, total.w * inverse);
    *reinterpret_cast<uint2*>(out + row * head_dim + column) = packed;
  }
}

// divide_decode() for what the gate chose, by every block of threads for its own part.
template <typename S>
__device__ __forceinline__ void divide_here(const DecodeParams& p, int part, DecodeStart& at,
                                            DecodeStart& end, int& part_chunks) {
  constexpr int kThreads = S::kThreads;
  constexpr int kWarps = S::kWarps;
  __shared__ std::int64_t sums[kWarps];
  __shared__ DecodeStart bounds[2];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int per_thread = (p.num_units + kThreads - 1) / kThreads;
  const int first = min(thread * per_thread, p.num_units);
  const int last = min(first + per_thread, p.num_units);
  std::int64_t own = 0;
  for (int u = first; u < last; ++u) own += __ldcg(p.unit_chunks + u);
  std::int64_t through = own;  // of this and the threads before
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const std::int64_t other = __shfl_up_sync(0xffffffffU, through, step);
    if (lane >= step) through += other;
  }
  if (lane == 31) sums[warp] = through;
  if (thread < 2) bounds[thread] = {p.num_units, 0};
  __syncthreads();
  std::int64_t total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) through += sums[w];
    total += sums[w];
  }
  const std::int64_t per = chunks_per_part(total, p.num_parts);
  std::int64_t before = through - own;
  for (int u = first; u < last; ++u) {
    const std::int64_t after = before + __ldcg(p.unit_chunks + u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t place = (part + i) * per;
      if (before <= place && place < after) {
        bounds[i] = {u, static_cast<std::int32_t>(place - before)};
      }
    }
    before = after;
  }
  __syncthreads();
  at = bounds[0];
  end = bounds[1];
  part_chunks = static_cast<int>(per);
}

template <typename T, int D, bool kSelected, typename S>
__global__ void __launch_bounds__(S::kThreads)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  constexpr int kWarps = S::kWarps;
  constexpr int kStages = S::kStages;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ bool is_last;
  MergeSpace<kWarps, D>& merge = *reinterpret_cast<MergeSpace<kWarps, D>*>(shared);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int part = static_cast<int>(blockIdx.x);
  const std::uint32_t stages =
      smem_address(shared) + static_cast<std::uint32_t>(warp * kStages * kStageBytes<D>);
  DecodeStart at{};
  DecodeStart end{};
  int part_chunks = 0;
  if constexpr (kSelected) {
    wait_for_previous_kernel();
    divide_here<S>(p, part, at, end, part_chunks);
  } else {
    at = p.starts[part];
    end = p.starts[part + 1];
    part_chunks = *p.part_chunks;
  }
  // Chunks of all units before the current one.
  std::int64_t unit_begin = std::int64_t{part} * part_chunks - at.chunk;

  for (int num_chunks = 0; at.unit < end.unit || (at.unit == end.unit && at.chunk < end.chunk);
       unit_begin += num_chunks, at = {at.unit + 1, 0}) {
    const DecodeUnit unit = decode_unit<kSelected>(p, at.unit);
    num_chunks = unit.num_chunks;
    if (num_chunks == 0) continue;
    const int last = at.unit < end.unit ? num_chunks : end.chunk;
    std::uint32_t q[D / 16][4];
    load_queries<T, D>(p, unit, lane, q);
    WarpState<D> state = {};
    state.row_max[0] = state.row_max[1] = -INFINITY;

    // This warp's chunks: at.chunk + warp, then every kWarps-th; kStages - 1 are on their way. The
    // place of the next one to fetch is looked up one step ahead.
    const int begin = at.chunk + warp;
    Chunk chunks[kStages];
    Chunk ahead = find_chunk<kSelected>(p, unit, min(begin, last - 1));
    int fetch = begin;
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) {
      if (fetch < last) {
        chunks[i] = ahead;
        load_chunk<T, D>(p, ahead, unit.num_keys,
                         stages + static_cast<std::uint32_t>(i * kStageBytes<D>), lane);
      }
      fetch += kWarps;
      if (fetch < last) ahead = find_chunk<kSelected>(p, unit, fetch);
      cp_async_commit();
    }
    for (int base = begin; base < last; base += kStages * kWarps) {
#pragma unroll
      for (int i = 0; i < kStages; ++i) {
        if (base + i * kWarps >= last) break;
        cp_async_wait<kStages - 2>();
        __syncwarp();
        constexpr int kAhead = kStages - 1;
        const int target = (i + kAhead) % kStages;
        if (fetch < last) {
          chunks[target] = ahead;
          load_chunk<T, D>(p, ahead, unit.num_keys,
                           stages + static_cast<std::uint32_t>(target * kStageBytes<D>), lane);
        }
        fetch += kWarps;
        if (fetch < last) ahead = find_chunk<kSelected>(p, unit, fetch);
        cp_async_commit();
        attend_chunk<T, D>(p, q, chunks[i], unit.num_keys,
                           stages + static_cast<std::uint32_t>(i * kStageBytes<D>), lane, state);
      }
    }
    cp_async_wait<0>();
    __syncthreads();

    // The warps' results put together.
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = quad_sum(state.row_sum[h]);
      const int row = lane / 4 + h * 8;
      if (lane % 4 == 0) merge.stats[warp][row] = make_float2(state.row_max[h], sum);
      if (row < unit.num_rows) {
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
          *reinterpret_cast<float2*>(&merge.out[warp][row][d * 8 + lane % 4 * 2]) =
              make_float2(state.out[d][2 * h], state.out[d][2 * h + 1]);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < kUnitRows) {
      const int row = static_cast<int>(threadIdx.x);
      float largest = -INFINITY;
      for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, merge.stats[w][row].x);
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        const float2 stats = merge.stats[w][row];
        const float weight = stats.x == -INFINITY ? 0.0F : exp2_fast(stats.x - largest);
        merge.weight[w][row] = weight;
        sum += weight * stats.y;
      }
      merge.total[row] = make_float2(largest, sum);
    }
    __syncthreads();
    const bool whole = at.chunk == 0 && last == unit.num_chunks;
    const int head_dim = p.heads.head_dim;
    const int piece = 2 * part + (at.chunk == 0 ? 1 : 0);
    const int pairs = head_dim / 2;
    for (int i = static_cast<int>(threadIdx.x); i < unit.num_rows * pairs; i += S::kThreads) {
      const int row = i / pairs;
      const int column = i % pairs * 2;
      float2 total = make_float2(0, 0);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float weight = merge.weight[w][row];
        total.x += weight * merge.out[w][row][column];
        total.y += weight * merge.out[w][row][column + 1];
      }
      if (whole) {
        const float inverse = 1.0F / merge.total[row].y;
        T* out = static_cast<T*>(p.out) + (unit.first_query_row + row) * head_dim + column;
        *reinterpret_cast<std::uint32_t*>(out) = pack2<T>(total.x * inverse, total.y * inverse);
      } else {
        *reinterpret_cast<float2*>(
            p.part_out + (static_cast<std::int64_t>(piece) * kUnitRows + row) * head_dim + column) =
            total;
      }
    }
    if (!whole) {
      if (threadIdx.x < kUnitRows) {
        p.part_stats[piece * kUnitRows + static_cast<int>(threadIdx.x)] = merge.total[threadIdx.x];
      }
      // Whoever comes last puts the unit together; the order of the pieces is fixed.
      const auto first_part = static_cast<int>(unit_begin / part_chunks);
      const auto last_part = static_cast<int>((unit_begin + unit.num_chunks - 1) / part_chunks);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        const int arrived = atomicAdd(p.unit_arrivals + at.unit, 1);
        is_last = arrived == last_part - first_part;
        if (is_last) p.unit_arrivals[at.unit] = 0;
      }
      __syncthreads();
      if (is_last) {
        __threadfence();
        combine_unit<T, S>(p, unit, first_part, last_part,
                           {reinterpret_cast<float2*>(shared + kUnitRows * sizeof(float)),
                            reinterpret_cast<float*>(shared)});
      }
    }
    __syncthreads();
  }
}

template <typename T, int D, bool kSelected, typename S>
void launch(const DecodeParams& params, cudaStream_t stream) {
  constexpr int kMergeBytes = static_cast<int>(sizeof(MergeSpace<S::kWarps, D>));
  const int shared_bytes =
      std::max({kPipelineBytes<S, D>, kMergeBytes, combine_bytes(params.num_parts)});
  MOBA_CUDA_CHECK(cudaFuncSetAttribute(decode_kernel<T, D, kSelected, S>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  // Behind the gate it starts while the gate still runs, and waits before it reads what that wrote.
  launch_after(decode_kernel<T, D, kSelected, S>, dim3(static_cast<unsigned>(params.num_parts)),
               S::kThreads, shared_bytes, stream, kSelected, params);
}

template <typename T, int D, typename S>
void launch_shape(const DecodeParams& params, bool use_selection, cudaStream_t stream) {
  if (use_selection) {
    launch<T, D, true, S>(params, stream);
  } else {
    launch<T, D, false, S>(params, stream);
  }
}

bool has_large_shape(std::size_t max_shared_bytes) {
  return max_shared_bytes >= std::size_t{kPipelineBytes<LargeShape, kMaxHalfHeadDim>};
}

}  // namespace

int decode_parts(int num_multiprocessors, std::size_t max_shared_bytes) {
  return num_multiprocessors * (has_large_shape(max_shared_bytes) ? kLargeParts : kSmallParts);
}

void launch_decode_attention(const DecodeParams& params, bool use_selection, DType dtype,
                             std::size_t max_shared_bytes, cudaStream_t stream) {
  dispatch_half(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    if (has_large_shape(max_shared_bytes)) {
      launch_shape<T, D, LargeShape>(params, use_selection, stream);
    } else {
      launch_shape<T, D, SmallShape>(params, use_selection, stream);
    }
  });
}

}  // namespace moba::cuda
