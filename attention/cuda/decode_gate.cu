#include <cstdint>

#include "attention/cuda/decode.h"
#include "attention/cuda/decode_units.cuh"
#include "attention/cuda/dependent_launch.cuh"
#include "attention/cuda/dispatch.h"
#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
// Scores of one pass, beside which the best so far are candidates again.
constexpr int kPassBlocks = 256;
constexpr int kCarry = kMaxSelect - 1;
constexpr int kCandidates = kPassBlocks + kCarry + 1;
constexpr int kPerLane = (kCandidates + 31) / 32;

struct GateSpace {
  float scores[kUnitRows][kCandidates];
  std::int32_t blocks[kUnitRows][kCandidates];
  // The best so far, best first; block -1: none.
  float best_scores[kUnitRows][kCarry];
  std::int32_t best_blocks[kUnitRows][kCarry];
  std::int32_t order[kUnitRows * kCarry];  // block if it is the first of its kind, else -1
  int num_union;
};

// A number that is larger for a larger score. Scores that are not numbers are the least.
__device__ __forceinline__ std::uint32_t order_of(float score) {
  const std::uint32_t bits = __float_as_uint(score);
  if (isnan(score)) return 1;
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Keeps the `keep` best of a row's `count` candidates in space.best_*: by score, of equal ones the
// larger block. One warp.
__device__ void keep_best(GateSpace& space, int row, int count, int keep, int lane) {
  std::uint32_t order[kPerLane];  // 0: none
  std::int32_t block[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int index = i * 32 + lane;
    block[i] = index < count ? space.blocks[row][index] : -1;
    order[i] = block[i] >= 0 ? order_of(space.scores[row][index]) : 0;
  }
  for (int round = 0; round < keep; ++round) {
    std::uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) mine = max(mine, order[i]);
    const std::uint32_t best = __reduce_max_sync(0xffffffffU, mine);
    std::int32_t mine_block = -1;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (order[i] == best) mine_block = max(mine_block, block[i]);
    }
    const std::int32_t best_block = __reduce_max_sync(0xffffffffU, mine_block);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (block[i] == best_block) {
        if (best_block >= 0) space.best_scores[row][round] = space.scores[row][i * 32 + lane];
        block[i] = -1;
        order[i] = 0;
      }
    }
    if (lane == 0) space.best_blocks[row][round] = best_block;
  }
  __syncwarp();
}

// Scores of blocks [first, first + count) for the unit's rows, to space.scores. A centroid's
// elements go to lanes in pieces of 16 bytes: q and centroid are permuted alike, which leaves the
// product as it is.
template <typename T, int D>
__device__ void score_blocks(const DecodeParams& p, const DecodeUnit& unit, int first, int count,
                             GateSpace& space, int warp, int lane) {
  constexpr int kPieces = D / 32;
  const int head_dim = p.heads.head_dim;
  const T* q = static_cast<const T*>(p.q) + unit.first_query_row * head_dim;
  uint4 rows[2][kPieces];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int row = lane / 4 + h * 8;
      const int column = i * 32 + lane % 4 * 8;
      rows[h][i] = row < unit.num_rows && column < head_dim
                       ? __ldg(reinterpret_cast<const uint4*>(q + row * head_dim + column))
                       : make_uint4(0, 0, 0, 0);
    }
  }
  const T* centroids = static_cast<const T*>(p.pages.centroids);
  // Eight blocks at a time, kAhead of these on their way at once.
  constexpr int kAhead = 4;
  for (int begin = warp * 8 * kAhead; begin < count; begin += kWarps * 8 * kAhead) {
    std::int64_t page[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int index = begin + a * 8 + lane / 4;
      page[a] = index < count
                    ? __ldg(unit.table + (first + index + 1) * p.pages.pages_per_moba_block - 1)
                    : -1;
    }
    uint4 c[kAhead][kPieces];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const T* centroid = centroids + (page[a] * p.heads.num_kv_heads + unit.kv_head) * head_dim;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int column = i * 32 + lane % 4 * 8;
        c[a][i] = page[a] >= 0 && column < head_dim
                      ? __ldg(reinterpret_cast<const uint4*>(centroid + column))
                      : make_uint4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      float s[4] = {};
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const std::uint32_t a0[4] = {rows[0][i].x, rows[1][i].x, rows[0][i].y, rows[1][i].y};
        mma_16816<T>(s, a0, c[a][i].x, c[a][i].y);
        const std::uint32_t a1[4] = {rows[0][i].z, rows[1][i].z, rows[0][i].w, rows[1][i].w};
        mma_16816<T>(s, a1, c[a][i].z, c[a][i].w);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = begin + a * 8 + lane % 4 * 2 + e % 2;
        const int row = lane / 4 + e / 2 * 8;
        if (column < count) {
          space.scores[row][column] = s[e] + 0.0F;  // no negative zero
          space.blocks[row][column] = first + column;
        }
      }
    }
  }
}

// Takes `count` candidates that stand in space.scores into the best so far of every row.
__device__ void take_candidates(GateSpace& space, const DecodeUnit& unit, int count, int keep,
                                int warp, int lane) {
  __syncthreads();
  for (int row = warp; row < unit.num_rows; row += kWarps) {
    for (int i = lane; i < keep; i += 32) {
      space.scores[row][count + i] = space.best_scores[row][i];
      space.blocks[row][count + i] = space.best_blocks[row][i];
    }
    __syncwarp();
    keep_best(space, row, count + keep, keep, lane);
  }
  __syncthreads();
}

__device__ void clear_best(GateSpace& space) {
  for (int i = static_cast<int>(threadIdx.x); i < kUnitRows * kCarry; i += kThreads) {
    space.best_scores[i / kCarry][i % kCarry] = -INFINITY;
    space.best_blocks[i / kCarry][i % kCarry] = -1;
  }
  __syncthreads();
}

// The union of the rows' choices, ascending, with the rows that made each; the own block last.
__device__ void write_union(const DecodeParams& p, GateSpace& space, int index,
                            const DecodeUnit& unit, int keep, int own) {
  const int count = unit.num_rows * keep;
  if (threadIdx.x == 0) space.num_union = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const std::int32_t block = space.best_blocks[i / keep][i % keep];
    bool first = block >= 0;
    for (int j = 0; j < i; ++j) first = first && space.best_blocks[j / keep][j % keep] != block;
    space.order[i] = first ? block : -1;
    if (first) atomicAdd(&space.num_union, 1);
  }
  __syncthreads();
  std::int32_t* blocks = p.selection.blocks + static_cast<std::int64_t>(index) * kMaxUnion;
  std::uint32_t* masks = p.selection.masks + static_cast<std::int64_t>(index) * kMaxUnion;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const std::int32_t block = space.order[i];
    if (block < 0) continue;
    int place = 0;
    for (int j = 0; j < count; ++j) place += space.order[j] >= 0 && space.order[j] < block ? 1 : 0;
    std::uint32_t mask = 0;
    for (int j = 0; j < count; ++j) {
      if (space.best_blocks[j / keep][j % keep] == block) mask |= 1U << (j / keep);
    }
    blocks[place] = block;
    masks[place] = mask;
  }
  if (threadIdx.x == 0) {
    const int past = space.num_union;
    blocks[past] = own;
    masks[past] = 0xffffffffU;
    p.selection.count[index] = past + 1;
    p.unit_chunks[index] = past * (p.pages.moba_block_size / kChunkKeys) +
                           ceil_div_chunks(unit.num_keys - own * p.pages.moba_block_size);
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads)
    decode_gate_kernel(const __grid_constant__ DecodeParams p) {
  __shared__ GateSpace space;
  __shared__ bool is_last;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int split = static_cast<int>(blockIdx.x);
  const int index = static_cast<int>(blockIdx.y);
  let_next_kernel_start();
  const DecodeUnit unit = decode_unit_rows(p, index);
  const int topk = p.topk[index / p.heads_div];
  const int own = unit.num_keys > 0 ? (unit.num_keys - 1) / p.pages.moba_block_div : 0;
  const int keep = topk - 1;

  if (unit.num_keys == 0 || topk == 0 || own < topk || topk == 1) {
    // Nothing to choose.
    if (split != 0) return;
    if (unit.num_keys > 0 && topk == 1) {
      DecodeUnit none = unit;
      none.num_rows = 0;
      write_union(p, space, index, none, 1, own);
    } else if (threadIdx.x == 0) {
      p.selection.count[index] = 0;
      p.unit_chunks[index] = ceil_div_chunks(unit.num_keys);
    }
  } else {
    const int per_split = (own + p.gate_splits - 1) / p.gate_splits;
    const int begin = min(split * per_split, own);
    const int end = min(begin + per_split, own);
    clear_best(space);
    for (int first = begin; first < end; first += kPassBlocks) {
      const int count = min(kPassBlocks, end - first);
      score_blocks<T, D>(p, unit, first, count, space, warp, lane);
      take_candidates(space, unit, count, keep, warp, lane);
    }
    if (p.gate_splits > 1) {
      const std::int64_t base =
          (static_cast<std::int64_t>(index) * p.gate_splits + split) * kUnitRows * kCarry;
      for (int i = static_cast<int>(threadIdx.x); i < unit.num_rows * keep; i += kThreads) {
        p.candidate_scores[base + i] = space.best_scores[i / keep][i % keep];
        p.candidate_blocks[base + i] = space.best_blocks[i / keep][i % keep];
      }
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        is_last = atomicAdd(p.gate_arrivals + index, 1) == p.gate_splits - 1;
        if (is_last) p.gate_arrivals[index] = 0;
      }
      __syncthreads();
      if (!is_last) return;
      __threadfence();
      clear_best(space);
      // Candidates of as many splits at a time as there is room for.
      const int splits_a_pass = max(1, kPassBlocks / keep);
      for (int first = 0; first < p.gate_splits; first += splits_a_pass) {
        const int splits = min(splits_a_pass, p.gate_splits - first);
        for (int i = static_cast<int>(threadIdx.x); i < splits * unit.num_rows * keep;
             i += kThreads) {
          const int s = i / (unit.num_rows * keep);
          const int rest = i - s * unit.num_rows * keep;
          const std::int64_t at =
              (static_cast<std::int64_t>(index) * p.gate_splits + first + s) * kUnitRows * kCarry +
              rest;
          space.scores[rest / keep][s * keep + rest % keep] = __ldcg(p.candidate_scores + at);
          space.blocks[rest / keep][s * keep + rest % keep] = __ldcg(p.candidate_blocks + at);
        }
        take_candidates(space, unit, splits * keep, keep, warp, lane);
      }
    }
    write_union(p, space, index, unit, keep, own);
  }
}

}  // namespace

void launch_decode_gate(const DecodeParams& params, DType dtype, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.gate_splits),
                  static_cast<unsigned>(params.num_units));
  dispatch_half(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    decode_gate_kernel<T, D><<<grid, kThreads, 0, stream>>>(params);
    MOBA_CUDA_LAUNCH_CHECK(decode_gate_kernel);
  });
}

}  // namespace moba::cuda
