#include <algorithm>
#include <numeric>

#include "attention/cuda/dispatch.h"
#include "attention/cuda/tile_attention_sm90.h"
#include "attention/cuda/tile_pipeline_sm90.cuh"
#include "attention/cuda/tile_results_sm90.cuh"
#include "device/cuda/cuda_check.h"

// A persistent block of threads per multiprocessor takes tiles of rows from a common counter.
// One warp fetches keys and values with the copy engine, three warps gather the queries of the next
// tile, and two or three warpgroups compute 64 rows each, in turns: while one multiplies the others
// take exponentials. Within a warpgroup the scores of the next 128 keys are computed beside the
// values of the last.

namespace moba::cuda {
namespace sm90 {
namespace {

// Masks, takes exponentials and sums of a warpgroup's 64 x 128 scores; a thread has two rows.
struct RowState {
  float largest[2];  // of the scores, in units of log2
  float sum[2];      // this thread's part
};

// scores become weights; returns by how much earlier results shrink.
__device__ __forceinline__ void online_softmax(float (&s)[kTileKeys / 2], float scale_log2,
                                               RowState& state, float (&shrink)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float largest = fmaxf(s[2 * h], s[2 * h + 1]);
#pragma unroll
    for (int n = 1; n < kTileKeys / 8; ++n) {
      largest = fmaxf(largest, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
    }
    largest = fmaxf(state.largest[h], quad_max(largest) * scale_log2);
    const float base = largest == -INFINITY ? 0.0F : largest;
    shrink[h] = exp2_fast(state.largest[h] - base);
    state.largest[h] = largest;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
      for (int e = 4 * n + 2 * h; e < 4 * n + 2 * h + 2; ++e) {
        s[e] = exp2_fast(fmaf(s[e], scale_log2, -base));
        sum += s[e];
      }
    }
    state.sum[h] = fmaf(state.sum[h], shrink[h], sum);
  }
}

template <typename T>
__device__ __forceinline__ void pack_weights(const float (&s)[kTileKeys / 2],
                                             std::uint32_t (&weights)[kTileKeys / 4]) {
#pragma unroll
  for (int i = 0; i < kTileKeys / 4; ++i) weights[i] = pack2<T>(s[2 * i], s[2 * i + 1]);
}

// Computes tiles' results. The consumer warpgroups.
template <typename T, int D, bool kListed>
__device__ void consume(const TileAttentionParams& p, Shared<D>& shared, int group, int thread) {
  using S = Shape<D>;
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int first_row = group * 64 + warp * 16;  // of the warp's in a tile
  Ring<S::kStages> k_ring;
  Ring<S::kStages> v_ring;
  const auto release = [&](std::uint64_t* empty) {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem_address(empty));
  };
  float scores[kTileKeys / 2];
  std::uint32_t weights[kTileKeys / 4];
  float out[D / 2];

  const auto issue_scores = [&](int slot, int stage) {
    const std::uint32_t queries =
        smem_address(shared.q[slot]) + static_cast<std::uint32_t>(group * 64 * kSwizzleRowBytes);
    const std::uint32_t keys = smem_address(shared.k[stage]);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < D / 16; ++ks) {
      const auto column = static_cast<std::uint32_t>(ks % 4 * 32);
      const std::uint64_t a = descriptor_k_major(
          queries + static_cast<std::uint32_t>(ks / 4 * S::kQueryPanelBytes) + column);
      const std::uint64_t b =
          descriptor_k_major(keys + static_cast<std::uint32_t>(ks / 4 * kKeyPanelBytes) + column);
      if (ks == 0) {
        Wgmma<T>::template product<false>(scores, a, b);
      } else {
        Wgmma<T>::template product<true>(scores, a, b);
      }
    }
    wgmma_commit();
  };
  const auto issue_values = [&](int stage) {
    const std::uint32_t values = smem_address(shared.v[stage]);
    keep_here(out);
    keep_here(weights);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < kTileKeys / 16; ++ks) {
      Wgmma<T>::template product_rows<true>(
          out, weights + 4 * ks,
          descriptor_mn_major(values + static_cast<std::uint32_t>(ks * 16 * kSwizzleRowBytes),
                              kKeyPanelBytes));
    }
    wgmma_commit();
  };

  // Warpgroup 0 begins.
  if (group == 1) named_barrier_arrive(kTurnBarrier, 256);
  bool started = false;  // this tile's first scores are there
  for (int count = 0;; ++count) {
    const int slot = count % kTileSlots;
    if (!started) barrier_wait(smem_address(&shared.q_full[slot]), count / kTileSlots & 1);
    const TileInfo& info = shared.info[slot];
    if (!info.valid) return;
    const int key_begin = info.key_begin;
    const int key_end = info.key_end;
    const int num_active = (info.num_rows + 63) / 64;  // warpgroups with rows
    if (group >= num_active) {
      for (int first = key_begin; first < key_end; first += kTileKeys) {
        barrier_wait(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
        release(&shared.k_empty[k_ring.stage]);
        k_ring.next();
        barrier_wait(smem_address(&shared.v_full[v_ring.stage]), v_ring.parity);
        release(&shared.v_empty[v_ring.stage]);
        v_ring.next();
      }
      release(&shared.tile_empty[slot]);
      continue;
    }
    const int next_group = group + 1 < num_active ? group + 1 : 0;

    // The thread's two rows: which keys they see.
    int last_key[2] = {key_end - 1, key_end - 1};
    int first_key[2] = {0, 0};
    if constexpr (!kListed) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = info.first_row + min(first_row + h * 8 + lane / 4, info.num_rows - 1);
        const int position = info.first_position + row / p.heads.group_div;
        last_key[h] = min(position, key_end - 1);
        if (p.window > 0) first_key[h] = position / p.pages.moba_block_div * p.window;
      }
    }
    const int unmasked_begin = info.unmasked_begin;
    const int unmasked_end = info.unmasked_end;
    const auto mask = [&](int first) {
      if (first >= unmasked_begin && first + kTileKeys <= unmasked_end) return;
#pragma unroll
      for (int i = 0; i < kTileKeys / 2; ++i) {
        const int key = first + i / 4 * 8 + lane % 4 * 2 + i % 2;
        const int h = i / 2 % 2;
        if (key > last_key[h] || (!kListed && key < first_key[h])) scores[i] = -INFINITY;
      }
    };

    if (!started) {
      barrier_wait(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
      issue_scores(slot, k_ring.stage);
      wgmma_wait<0>();
      keep_here(scores);
    }
    RowState state{{-INFINITY, -INFINITY}, {0.0F, 0.0F}};
    float shrink[2];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] = 0.0F;
    release(&shared.k_empty[k_ring.stage]);
    k_ring.next();
    mask(key_begin);
    online_softmax(scores, p.heads.scale_log2, state, shrink);
    pack_weights<T>(scores, weights);

    for (int first = key_begin + kTileKeys; first < key_end; first += kTileKeys) {
      barrier_wait(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
      if (num_active > 1) named_barrier_sync(kTurnBarrier + group, 256);
      issue_scores(slot, k_ring.stage);
      barrier_wait(smem_address(&shared.v_full[v_ring.stage]), v_ring.parity);
      issue_values(v_ring.stage);
      if (num_active > 1) named_barrier_arrive(kTurnBarrier + next_group, 256);
      wgmma_wait<1>();
      keep_here(scores);
      release(&shared.k_empty[k_ring.stage]);
      k_ring.next();
      mask(first);
      online_softmax(scores, p.heads.scale_log2, state, shrink);
      wgmma_wait<0>();
      keep_here(out);
      keep_here(weights);
      release(&shared.v_empty[v_ring.stage]);
      v_ring.next();
      pack_weights<T>(scores, weights);
      if (__any_sync(0xffffffffU, shrink[0] != 1.0F || shrink[1] != 1.0F)) {
#pragma unroll
        for (int i = 0; i < D / 2; ++i) out[i] *= shrink[i / 2 % 2];
      }
    }

    // The last values; if the next tile is there already, its first scores, which are computed
    // while this tile's results are written.
    barrier_wait(smem_address(&shared.v_full[v_ring.stage]), v_ring.parity);
    issue_values(v_ring.stage);
    const int next_slot = (count + 1) % kTileSlots;
    bool ready =
        barrier_test(smem_address(&shared.q_full[next_slot]), (count + 1) / kTileSlots & 1);
    if (ready) {
      const TileInfo& next = shared.info[next_slot];
      ready = next.valid && group * 64 < next.num_rows &&
              barrier_test(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
    }
    started = named_barrier_and(kGroupBarrier + group, 128, ready);
    // Results, through the warp's rows of Q's shared memory for whole lines.
    const auto finish = [&] {
      keep_here(out);
      release(&shared.v_empty[v_ring.stage]);
      const bool to_partials = kListed || p.partial_slot >= 0;
      const bool merges = !kListed && p.merge_slots > 1;
      unsigned char* staged = shared.q[slot];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = first_row + h * 8 + lane / 4;
        const float sum = quad_sum(state.sum[h]);
        const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          *reinterpret_cast<std::uint32_t*>(staged + n / 8 * S::kQueryPanelBytes +
                                            swizzled(row, n % 8) + lane % 4 * 4) =
              pack2<T>(out[4 * n + 2 * h] * inverse, out[4 * n + 2 * h + 1] * inverse);
        }
        if ((to_partials || merges) && lane % 4 == 0) {
          const float lse = sum > 0.0F ? state.largest[h] + log2f(sum) : -INFINITY;
          const std::int64_t place = shared.row_place[slot][row];
          if (merges) {
            shared.row_lse[row] = lse;
          } else if (place >= 0) {
            p.partials.lse[place] = lse;
          }
        }
      }
      __syncwarp();
      if (merges) {
        write_merged<T, D>(p, shared, slot, first_row, lane);
      } else {
        write_rows<T, D>(p, static_cast<T*>(to_partials ? p.partials.out : p.out), shared, slot,
                         first_row, lane);
      }
      release(&shared.tile_empty[slot]);
    };
    if (started) {
      issue_scores(next_slot, k_ring.stage);
      wgmma_wait<1>();
      finish();
      wgmma_wait<0>();
      keep_here(scores);
    } else {
      wgmma_wait<0>();
      finish();
    }
    v_ring.next();
  }
}

template <typename T, int D, bool kListed>
__global__ void __launch_bounds__(Shape<D>::kThreads, 1)
    tile_attention_sm90_kernel(const __grid_constant__ TileAttentionParams p,
                               const __grid_constant__ PageMaps maps, std::int32_t* tile_counter,
                               int box_rows) {
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
  extern __shared__ unsigned char dynamic[];
  using S = Shape<D>;
  auto& shared =
      *reinterpret_cast<Shared<D>*>(dynamic + (1024 - smem_address(dynamic) % 1024) % 1024);
  const int group = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 128, 0);
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTileSlots; ++i) {
      barrier_init(smem_address(&shared.tile_full[i]), 1);
      barrier_init(smem_address(&shared.tile_empty[i]), S::kConsumerWarps);
      barrier_init(smem_address(&shared.q_full[i]), kQueryThreads);
    }
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(smem_address(&shared.k_full[i]), 1);
      barrier_init(smem_address(&shared.v_full[i]), 1);
      barrier_init(smem_address(&shared.k_empty[i]), S::kConsumerWarps);
      barrier_init(smem_address(&shared.v_empty[i]), S::kConsumerWarps);
    }
    barrier_init(smem_address(&shared.v_raw), 1);
    barrier_init_fence();
  }
  __syncthreads();
  if (group == 0) {
    give_registers<S::kProducerRegisters>();
    if (thread < 32) {
      produce_keys<D, kListed>(p, &maps.k, &maps.v, tile_counter, box_rows, shared, thread);
    } else {
      produce_queries<T, D, kListed>(p, shared, thread - 32);
    }
  } else {
    take_registers<S::kConsumerRegisters>();
    consume<T, D, kListed>(p, shared, group - 1, thread);
  }
#endif
}

template <typename T, int D, bool kListed>
void launch(const TileAttentionParams& params, const PageMaps& maps, std::int32_t* tile_counter,
            int grid, cudaStream_t stream) {
  MOBA_CUDA_CHECK(cudaFuncSetAttribute(tile_attention_sm90_kernel<T, D, kListed>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       kSharedBytes<D>));
  tile_attention_sm90_kernel<T, D, kListed><<<grid, Shape<D>::kThreads, kSharedBytes<D>, stream>>>(
      params, maps, tile_counter, page_box_rows(params.pages.block_size));
  MOBA_CUDA_LAUNCH_CHECK(tile_attention_sm90_kernel);
}

// Calls body.operator()<T, D>() for the D that has a kernel.
template <typename Body>
void dispatch(DType dtype, int head_dim, Body&& body) {
  dispatch_half(dtype, head_dim,
                [&]<typename T, int D>() { body.template operator()<T, D == 64 ? 64 : 128>(); });
}

}  // namespace
}  // namespace sm90

int tile_rows_sm90(int head_dim) {
  return head_dim <= 64 ? sm90::Shape<64>::kRows : sm90::Shape<128>::kRows;
}

int page_box_rows(int block_size) { return std::gcd(block_size, sm90::kTileKeys); }

void launch_row_tiles_sm90(const TileAttentionParams& params, const PageMaps& maps,
                           std::int32_t* tile_counter, DType dtype, int num_multiprocessors,
                           cudaStream_t stream) {
  if (params.num_row_tiles == 0) return;
  sm90::dispatch(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    sm90::launch<T, D, false>(params, maps, tile_counter,
                              std::min(params.num_row_tiles, num_multiprocessors), stream);
  });
}

void launch_list_tiles_sm90(const TileAttentionParams& params, const PageMaps& maps,
                            std::int32_t* tile_counter, DType dtype, int num_multiprocessors,
                            cudaStream_t stream) {
  sm90::dispatch(dtype, params.heads.head_dim, [&]<typename T, int D>() {
    sm90::launch<T, D, true>(params, maps, tile_counter, num_multiprocessors, stream);
  });
}

}  // namespace moba::cuda
