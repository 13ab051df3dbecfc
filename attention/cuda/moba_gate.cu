#include "attention/cuda/dispatch.h"
#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "attention/cuda/moba_gate.h"
#include "device/cuda/cuda_check.h"

namespace moba::cuda {
namespace {

constexpr int kWarps = kGateRows / 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileBlocks = 64;

template <int D>
constexpr int kTileBytes = kTileBlocks* kRowBytes<D>;

// Scores that a lane may have waiting for a row.
constexpr int kQueueSize = 12;
// Columns of scores between two looks at the queues, and how many of these a lane holds of a row.
constexpr int kStepBlocks = 16;
constexpr int kStepScores = kStepBlocks / 4;
constexpr int kQueueBytes = 2 * kQueueSize * kThreads * static_cast<int>(sizeof(float2));
template <int D>
constexpr int kSharedBytes = 2 * kTileBytes<D> + kQueueBytes;

// The best blocks that one lane has seen of one row, best first. Blocks come in ascending order, so
// of equal scores the one that comes later stands first.
template <int kCap>
struct BestList {
  float score[kCap];
  std::int32_t block[kCap];

  // Room for `keep` <= kCap: the rest is taken by entries that nothing displaces.
  __device__ void clear(int keep) {
#pragma unroll
    for (int i = 0; i < kCap; ++i) {
      score[i] = i < kCap - keep ? INFINITY : -INFINITY;
      block[i] = -1;
    }
  }
  __device__ float worst() const { return score[kCap - 1]; }
  __device__ void insert(float s, std::int32_t b) {
#pragma unroll
    for (int i = kCap - 1; i > 0; --i) {
      const bool before_previous = s >= score[i - 1];
      const bool before_this = s >= score[i];
      block[i] = before_previous ? block[i - 1] : (before_this ? b : block[i]);
      score[i] = before_previous ? score[i - 1] : (before_this ? s : score[i]);
    }
    if (s >= score[0]) {
      score[0] = s;
      block[0] = b;
    }
  }
  __device__ void pop() {
#pragma unroll
    for (int i = 0; i + 1 < kCap; ++i) {
      score[i] = score[i + 1];
      block[i] = block[i + 1];
    }
    score[kCap - 1] = -INFINITY;
    block[kCap - 1] = -1;
  }
};

// Centroids of blocks [first, first + kTileBlocks) to shared memory; zeros from `end` on.
template <typename T, int D>
__device__ __forceinline__ void load_centroids(const MobaGateParams& p, const std::int32_t* table,
                                               int kv_head, int first, int end,
                                               std::uint32_t smem) {
  constexpr int kPieces = D / 8;
  const T* centroids = static_cast<const T*>(p.pages.centroids);
#pragma unroll
  for (int i = 0; i < kTileBlocks * kPieces / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kPieces;
    const int piece = index % kPieces;
    const bool valid = first + row < end && piece * 8 < p.heads.head_dim;
    const T* source = centroids;
    if (valid) {
      const std::int64_t page = __ldg(table + (first + row + 1) * p.pages.pages_per_moba_block - 1);
      source += (page * p.heads.num_kv_heads + kv_head) * p.heads.head_dim + piece * 8;
    }
    cp_async_16(smem + static_cast<std::uint32_t>(row * kRowBytes<D> + piece * 16), source, valid);
  }
}

template <typename T, int D, int kCap>
__global__ void __launch_bounds__(kThreads, kCap > 15 ? 1 : 2)
    moba_gate_kernel(const __grid_constant__ MobaGateParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const std::uint32_t smem = smem_address(shared);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const GateTile tile = p.tiles[blockIdx.x];
  const int first_token = p.batch.cu_seqlens_q[tile.seq];
  const int num_tokens = p.batch.cu_seqlens_q[tile.seq + 1] - first_token;
  const int first_position = p.batch.seq_lens[tile.seq] - num_tokens;
  const std::int32_t* table = p.batch.tables + p.batch.table_begin[tile.seq];
  const int keep = p.topk[tile.seq] - 1;

  // The lane's two rows.
  std::int64_t row_index[2];
  int own[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = warp * 16 + h * 8 + lane / 4;
    const int row = tile.first_row + min(r, tile.num_rows - 1);
    const int token = row / p.heads.group_div;
    const int head = tile.kv_head * p.heads.group + row - token * p.heads.group;
    row_index[h] = static_cast<std::int64_t>(first_token + token) * p.heads.num_q_heads + head;
    own[h] = (first_position + token) / p.pages.moba_block_div;
  }
  const auto own_of = [&](int row) {
    return (first_position + row / p.heads.group_div) / p.pages.moba_block_div;
  };
  const int least_own = own_of(tile.first_row);
  const int end = own_of(tile.first_row + tile.num_rows - 1);

  std::uint32_t q[D / 16][4];
#pragma unroll
  for (int ks = 0; ks < D / 16; ++ks) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = ks * 16 + i / 2 * 8 + lane % 4 * 2;
      q[ks][i] =
          column < p.heads.head_dim
              ? __ldg(reinterpret_cast<const std::uint32_t*>(
                    static_cast<const T*>(p.q) + row_index[i % 2] * p.heads.head_dim + column))
              : 0U;
    }
  }

  BestList<kCap> best[2];
  best[0].clear(keep);
  best[1].clear(keep);
  // Scores that may be among the best wait in shared memory: putting them into the lists is dear,
  // and done for all lanes at a time it costs as much as for one.
  float2* const queues = reinterpret_cast<float2*>(shared + 2 * kTileBytes<D>) + threadIdx.x;
  int waiting[2] = {0, 0};
  // What a row's scores must reach: what some lane's list of the row holds at its end.
  float threshold[2] = {-INFINITY, -INFINITY};
  const auto empty_queue = [&](int h) {
    for (int i = 0; __any_sync(0xffffffffU, i < waiting[h]); ++i) {
      if (i < waiting[h]) {
        const float2 entry = queues[(h * kQueueSize + i) * kThreads];
        if (entry.x >= best[h].worst()) best[h].insert(entry.x, __float_as_int(entry.y));
      }
    }
    waiting[h] = 0;
    threshold[h] = quad_max(best[h].worst());
  };

  load_centroids<T, D>(p, table, tile.kv_head, 0, end, smem);
  cp_async_commit();
  int stage = 0;
  for (int first = 0; first < end; first += kTileBlocks, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (first + kTileBlocks < end) {
      load_centroids<T, D>(p, table, tile.kv_head, first + kTileBlocks, end,
                           smem + static_cast<std::uint32_t>((stage ^ 1) * kTileBytes<D>));
      cp_async_commit();
    }
    const std::uint32_t tile_smem = smem + static_cast<std::uint32_t>(stage * kTileBytes<D>);
#pragma unroll
    for (int n = 0; n < kTileBlocks / kStepBlocks; ++n) {
      if (first + n * kStepBlocks >= end) break;
      float s[2][4] = {};
#pragma unroll
      for (int ks = 0; ks < D / 16; ++ks) {
        const int row = n * kStepBlocks + lane / 16 * 8 + lane % 8;
        std::uint32_t b[4];
        ldmatrix_x4(b, tile_smem + static_cast<std::uint32_t>(row * kRowBytes<D> + ks * 32 +
                                                              (lane / 8 % 2) * 16));
        mma_16816<T>(s[0], q[ks], b[0], b[1]);
        mma_16816<T>(s[1], q[ks], b[2], b[3]);
      }
      const int step_first = first + n * kStepBlocks;
      const bool all_past = step_first + kStepBlocks <= least_own;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (!all_past) {
#pragma unroll
          for (int e = 0; e < kStepScores; ++e) {
            const int block = step_first + e / 2 * 8 + lane % 4 * 2 + e % 2;
            // Not a number: reaches no threshold.
            if (block >= own[h]) s[e / 2][2 * h + e % 2] = NAN;
          }
        }
        const float largest =
            fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1]));
        if (largest >= threshold[h]) {
#pragma unroll
          for (int e = 0; e < kStepScores; ++e) {
            const float score = s[e / 2][2 * h + e % 2];
            if (score >= threshold[h]) {
              queues[(h * kQueueSize + waiting[h]) * kThreads] =
                  make_float2(score, __int_as_float(step_first + e / 2 * 8 + lane % 4 * 2 + e % 2));
              ++waiting[h];
            }
          }
        }
        if (__any_sync(0xffffffffU, waiting[h] > kQueueSize - kStepScores)) empty_queue(h);
      }
    }
  }
  empty_queue(0);
  empty_queue(1);

  // The row's best among its four lanes' lists.
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    for (int i = keep; i < kCap; ++i) best[h].pop();
    const int r = warp * 16 + h * 8 + lane / 4;
    for (int slot = 1; slot <= keep; ++slot) {
      float score = best[h].score[0];
      std::int32_t block = best[h].block[0];
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other = __shfl_xor_sync(0xffffffffU, score, step);
        const std::int32_t other_block = __shfl_xor_sync(0xffffffffU, block, step);
        if (other > score || (other == score && other_block > block)) {
          score = other;
          block = other_block;
        }
      }
      if (block >= 0 && best[h].block[0] == block) best[h].pop();
      if (lane % 4 == slot % 4 && r < tile.num_rows) {
        const std::int64_t at = (row_index[h] - p.first_row) * p.slots + slot;
        const int bucket = block >= 0 ? tile.first_bucket + block : -1;
        p.chosen[at] = bucket;
        // Scores that are not numbers: fewer blocks than asked for.
        if (bucket < 0) p.lse[at] = -INFINITY;
      }
    }
  }
}

constexpr int kRankThreads = 256;
// Blocks that are counted in one pass.
constexpr int kRankBlocks = 8192;

// Every choice's place in its block's list: counted in shared memory, with one addition to the
// block's global count for all of the tile's rows.
__global__ void __launch_bounds__(kRankThreads)
    moba_rank_kernel(const __grid_constant__ MobaGateParams p, FastDiv past_div) {
  __shared__ std::int32_t counts[kRankBlocks];
  const RankTile tile = p.rank_tiles[blockIdx.x];
  const int past = p.slots - 1;
  const int per_token = p.heads.group * past;
  const int total = (tile.token_end - tile.token_begin) * per_token;
  const std::int64_t first = (static_cast<std::int64_t>(tile.token_begin) * p.heads.num_q_heads +
                              tile.kv_head * p.heads.group - p.first_row) *
                             p.slots;
  const std::int64_t token_stride = static_cast<std::int64_t>(p.heads.num_q_heads) * p.slots;
  const auto place_of = [&](int i) {
    const int row = i / past_div;
    const int token = row / p.heads.group_div;
    return first + token * token_stride +
           static_cast<std::int64_t>(row - token * p.heads.group) * p.slots + 1 + i - row * past;
  };
  for (int begin = 0; begin < tile.num_blocks; begin += kRankBlocks) {
    const int num_blocks = min(kRankBlocks, tile.num_blocks - begin);
    const int first_bucket = tile.first_bucket + begin;
    for (int i = static_cast<int>(threadIdx.x); i < num_blocks; i += kRankThreads) counts[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < total; i += kRankThreads) {
      const std::int64_t at = place_of(i);
      const int block = p.chosen[at] - first_bucket;
      if (block >= 0 && block < num_blocks) p.ranks[at] = atomicAdd(counts + block, 1);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < num_blocks; i += kRankThreads) {
      if (counts[i] > 0) counts[i] = atomicAdd(p.counts + first_bucket + i, counts[i]);
    }
    __syncthreads();
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < total; i += kRankThreads) {
      const std::int64_t at = place_of(i);
      const int block = p.chosen[at] - first_bucket;
      if (block >= 0 && block < num_blocks) p.ranks[at] += counts[block];
    }
    __syncthreads();
  }
}

constexpr int kScanThreads = 1024;

// Inclusive sum over the block; `scratch` has a place for each warp.
__device__ int block_scan(int value, int* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffU, value, step);
    if (lane >= step) value += other;
  }
  if (lane == 31) scratch[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int sum = scratch[lane];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffU, sum, step);
      if (lane >= step) sum += other;
    }
    scratch[lane] = sum;
  }
  __syncthreads();
  const int result = value + (warp > 0 ? scratch[warp - 1] : 0);
  __syncthreads();
  return result;
}

// Where lists begin, and their tiles. One block of threads.
__global__ void __launch_bounds__(kScanThreads)
    moba_scan_kernel(const __grid_constant__ MobaGateParams p) {
  __shared__ int scratch[32];
  __shared__ int carry[2];
  if (threadIdx.x < 2) carry[threadIdx.x] = 0;
  __syncthreads();
  for (int first = 0; first < p.num_buckets; first += kScanThreads) {
    const int bucket = first + static_cast<int>(threadIdx.x);
    const int count = bucket < p.num_buckets ? p.counts[bucket] : 0;
    const int tiles = (count + p.tile_rows - 1) / p.tile_rows;
    const int entries_before = carry[0];
    const int tiles_before = carry[1];
    const int entries_to = entries_before + block_scan(count, scratch);
    const int tiles_to = tiles_before + block_scan(tiles, scratch);
    if (threadIdx.x == kScanThreads - 1) {
      carry[0] = entries_to;
      carry[1] = tiles_to;
    }
    if (bucket < p.num_buckets) {
      p.begins[bucket] = entries_to - count;
      p.counts[bucket] = 0;
      int low = 0;
      int high = p.num_ranges - 1;
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (p.ranges[middle].first_bucket <= bucket) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      const BucketRange range = p.ranges[low];
      for (int i = 0; i < tiles; ++i) {
        const int begin = i * p.tile_rows;
        p.list_tiles[tiles_to - tiles + i] = {range.seq, range.kv_head, bucket - range.first_bucket,
                                              entries_to - count + begin,
                                              min(p.tile_rows, count - begin)};
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *p.num_list_tiles = carry[1];
}

__global__ void moba_scatter_kernel(const __grid_constant__ MobaGateParams p, FastDiv slots_div,
                                    FastDiv heads_div) {
  const std::int64_t total = p.num_rows * p.slots;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const int row = static_cast<int>(i) / slots_div;
    const int slot = static_cast<int>(i) - row * p.slots;
    const std::int64_t index = p.first_row + row;
    if (slot == 0 || slot >= p.token_slots[static_cast<int>(index) / heads_div]) continue;
    const int bucket = p.chosen[i];
    if (bucket < 0) continue;
    p.entries[p.begins[bucket] + p.ranks[i]] =
        static_cast<std::uint32_t>(index) << kSlotBits | static_cast<std::uint32_t>(slot);
  }
}

template <typename T, int D, int kCap>
void launch(const MobaGateParams& params, cudaStream_t stream) {
  static_assert(kTileBlocks * (D / 8) % kThreads == 0);
  MOBA_CUDA_CHECK(cudaFuncSetAttribute(
      moba_gate_kernel<T, D, kCap>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<D>));
  moba_gate_kernel<T, D, kCap><<<params.num_tiles, kThreads, kSharedBytes<D>, stream>>>(params);
  MOBA_CUDA_LAUNCH_CHECK(moba_gate_kernel);
}

}  // namespace

void launch_moba_gate(const MobaGateParams& params, int max_topk, DType dtype,
                      cudaStream_t stream) {
  if (params.num_tiles == 0) return;
  dispatch_half(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    if (max_topk <= 4) {
      launch<T, D, 3>(params, stream);
    } else if (max_topk <= 8) {
      launch<T, D, 7>(params, stream);
    } else if (max_topk <= 16) {
      launch<T, D, 15>(params, stream);
    } else {
      launch<T, D, kMaxSelect - 1>(params, stream);
    }
  });
}

void launch_moba_lists(const MobaGateParams& params, cudaStream_t stream) {
  if (params.num_tiles == 0) return;
  moba_rank_kernel<<<params.num_rank_tiles, kRankThreads, 0, stream>>>(
      params, FastDiv(static_cast<std::uint32_t>(params.slots - 1)));
  MOBA_CUDA_LAUNCH_CHECK(moba_rank_kernel);
  moba_scan_kernel<<<1, kScanThreads, 0, stream>>>(params);
  MOBA_CUDA_LAUNCH_CHECK(moba_scan_kernel);
  constexpr int kScatterThreads = 256;
  const std::int64_t total = params.num_rows * params.slots;
  const std::int64_t blocks = (total + kScatterThreads - 1) / kScatterThreads;
  moba_scatter_kernel<<<static_cast<unsigned>(blocks < 4096 ? blocks : 4096), kScatterThreads, 0,
                        stream>>>(params, FastDiv(static_cast<std::uint32_t>(params.slots)),
                                  FastDiv(static_cast<std::uint32_t>(params.heads.num_q_heads)));
  MOBA_CUDA_LAUNCH_CHECK(moba_scatter_kernel);
}

}  // namespace moba::cuda
