#include <algorithm>
#include <numeric>

#include "attention/cuda/dispatch.h"
#include "attention/cuda/tile_attention_sm90.h"
#include "attention/cuda/tile_pipeline_sm90.cuh"
#include "attention/cuda/tile_results_sm90.cuh"
#include "device/cuda/cuda_check.h"

// A persistent block of threads per multiprocessor takes tiles of 128 rows from a common counter.
// One warp fetches keys and values with the copy engine, three warps gather the queries of the next
// tile, and two warpgroups compute 64 rows each: while one multiplies the other takes exponentials.
// Within a warpgroup the scores of the next 128 keys are computed beside the values of the last.

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

// Computes tiles' results. The two consumer warpgroups.
template <typename T, int D, bool kListed>
__device__ void consume(const TileAttentionParams& p, Shared<D>& shared, int group, int thread) {
  using S = Shared<D>;
  const int lane = thread % 32;
  const int warp = thread / 32;
  Ring<S::kStages> k_ring;
  Ring<S::kStages> v_ring;
  const auto release = [&](std::uint64_t* empty) {
    __syncwarp();
    if (lane == 0) barrier_arrive(smem_address(empty));
  };
  if (group == 1) named_barrier_arrive(kTurnBarrier, 256);
  for (int count = 0;; ++count) {
    const int slot = count % kTileSlots;
    barrier_wait(smem_address(&shared.q_full[slot]), count / kTileSlots & 1);
    const TileInfo& info = shared.info[slot];
    if (!info.valid) return;
    const int key_begin = info.key_begin;
    const int key_end = info.key_end;
    const bool in_turns = info.num_rows > 64;
    if (group * 64 >= info.num_rows) {
      // No rows for this warpgroup.
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

    // The thread's two rows: which keys they see.
    int last_key[2] = {key_end - 1, key_end - 1};
    int first_key[2] = {0, 0};
    if constexpr (!kListed) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int r = group * 64 + warp * 16 + h * 8 + lane / 4;
        const int position =
            info.first_position + (info.first_row + min(r, info.num_rows - 1)) / p.heads.group_div;
        last_key[h] = min(position, key_end - 1);
        if (p.window > 0) first_key[h] = position / p.pages.moba_block_div * p.window;
      }
    }
    const int unmasked_begin = info.unmasked_begin;
    const int unmasked_end = info.unmasked_end;
    const auto mask = [&](float(&s)[kTileKeys / 2], int first) {
      if (first >= unmasked_begin && first + kTileKeys <= unmasked_end) return;
#pragma unroll
      for (int i = 0; i < kTileKeys / 2; ++i) {
        const int key = first + i / 4 * 8 + lane % 4 * 2 + i % 2;
        const int h = i / 2 % 2;
        if (key > last_key[h] || (!kListed && key < first_key[h])) s[i] = -INFINITY;
      }
    };

    const std::uint32_t q_rows =
        smem_address(shared.q[slot]) + static_cast<std::uint32_t>(group * 64 * kSwizzleRowBytes);
    float scores[kTileKeys / 2];
    std::uint32_t weights[kTileKeys / 4];
    float out[D / 2];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] = 0.0F;
    RowState state{{-INFINITY, -INFINITY}, {0.0F, 0.0F}};
    float shrink[2];

    const auto issue_scores = [&](int stage) {
      const std::uint32_t keys = smem_address(shared.k[stage]);
      wgmma_fence();
#pragma unroll
      for (int ks = 0; ks < D / 16; ++ks) {
        const auto offset = static_cast<std::uint32_t>(ks / 4 * kPanelBytes + ks % 4 * 32);
        const std::uint64_t a = descriptor_k_major(q_rows + offset);
        const std::uint64_t b = descriptor_k_major(keys + offset);
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
                                kPanelBytes));
      }
      wgmma_commit();
    };

    barrier_wait(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
    issue_scores(k_ring.stage);
    wgmma_wait<0>();
    keep_here(scores);
    release(&shared.k_empty[k_ring.stage]);
    k_ring.next();
    mask(scores, key_begin);
    online_softmax(scores, p.heads.scale_log2, state, shrink);
    pack_weights<T>(scores, weights);

    for (int first = key_begin + kTileKeys; first < key_end; first += kTileKeys) {
      barrier_wait(smem_address(&shared.k_full[k_ring.stage]), k_ring.parity);
      if (in_turns) named_barrier_sync(kTurnBarrier + group, 256);
      issue_scores(k_ring.stage);
      barrier_wait(smem_address(&shared.v_full[v_ring.stage]), v_ring.parity);
      issue_values(v_ring.stage);
      if (in_turns) named_barrier_arrive(kTurnBarrier + 1 - group, 256);
      wgmma_wait<1>();
      keep_here(scores);
      release(&shared.k_empty[k_ring.stage]);
      k_ring.next();
      mask(scores, first);
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
    barrier_wait(smem_address(&shared.v_full[v_ring.stage]), v_ring.parity);
    issue_values(v_ring.stage);
    wgmma_wait<0>();
    keep_here(out);
    release(&shared.v_empty[v_ring.stage]);
    v_ring.next();

    // Results, through the warpgroup's rows of Q's shared memory for whole lines.
    const bool to_partials = kListed || p.partial_slot >= 0;
    const bool merges = !kListed && p.merge_slots > 1;
    unsigned char* staged = shared.q[slot];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = group * 64 + warp * 16 + h * 8 + lane / 4;
      const float sum = quad_sum(state.sum[h]);
      const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        *reinterpret_cast<std::uint32_t*>(staged + n / 8 * kPanelBytes + swizzled(row, n % 8) +
                                          lane % 4 * 4) =
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
    const int first_row = group * 64 + warp * 16;
    if (merges) {
      write_merged<T, D>(p, shared, slot, first_row, lane);
    } else {
      write_rows<T, D>(p, static_cast<T*>(to_partials ? p.partials.out : p.out), shared, slot,
                       first_row, lane);
    }
    release(&shared.tile_empty[slot]);
  }
}

template <typename T, int D, bool kListed>
__global__ void __launch_bounds__(kThreads, 1)
    tile_attention_sm90_kernel(const __grid_constant__ TileAttentionParams p,
                               const __grid_constant__ PageMaps maps, std::int32_t* tile_counter,
                               int box_rows) {
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
  extern __shared__ unsigned char dynamic[];
  using S = Shared<D>;
  S& shared = *reinterpret_cast<S*>(dynamic + (1024 - smem_address(dynamic) % 1024) % 1024);
  const int group = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 128, 0);
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTileSlots; ++i) {
      barrier_init(smem_address(&shared.tile_full[i]), 1);
      barrier_init(smem_address(&shared.tile_empty[i]), kConsumerWarps);
      barrier_init(smem_address(&shared.q_full[i]), kQueryThreads);
    }
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(smem_address(&shared.k_full[i]), 1);
      barrier_init(smem_address(&shared.v_full[i]), 1);
      barrier_init(smem_address(&shared.k_empty[i]), kConsumerWarps);
      barrier_init(smem_address(&shared.v_empty[i]), kConsumerWarps);
    }
    barrier_init(smem_address(&shared.v_raw), 1);
    barrier_init_fence();
  }
  __syncthreads();
  if (group == 0) {
    give_registers<kProducerRegisters>();
    if (thread < 32) {
      produce_keys<D, kListed>(p, &maps.k, &maps.v, tile_counter, box_rows, shared, thread);
    } else {
      produce_queries<T, D, kListed>(p, shared, thread - 32);
    }
  } else {
    take_registers<kConsumerRegisters>();
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
  tile_attention_sm90_kernel<T, D, kListed><<<grid, kThreads, kSharedBytes<D>, stream>>>(
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
