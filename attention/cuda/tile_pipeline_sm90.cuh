// How keys, values and queries of tiles come to shared memory on sm_90: what tile_attention_sm90.cu
// computes with.
#pragma once

#include "attention/cuda/fast_div.cuh"
#include "attention/cuda/mma_sm80.cuh"
#include "attention/cuda/sync_sm90.cuh"
#include "attention/cuda/tile_attention.h"
#include "attention/cuda/wgmma_sm90.cuh"

namespace moba::cuda::sm90 {

constexpr int kTileKeys = 128;
constexpr int kQueryThreads = 96;
// Tiles whose queries are in shared memory.
constexpr int kTileSlots = 2;

// Named barriers; 0 is __syncthreads.
constexpr int kQueryBarrier = 1;
constexpr int kGroupBarrier = 2;  // + consumer warpgroup
constexpr int kTurnBarrier = 5;   // + consumer warpgroup

// 64 columns of a tile's keys.
constexpr int kKeyPanelBytes = kTileKeys * kSwizzleRowBytes;

struct TileInfo {
  int valid;
  int seq;
  int kv_head;
  int num_rows;
  int key_begin;
  int key_end;
  int unmasked_begin;  // keys [unmasked_begin, unmasked_end) are seen by every row
  int unmasked_end;
  int first_row;  // rows in order
  int first_token;
  int first_position;
  int first_entry;  // listed rows
};

// Sizes by number of dimensions. Each consumer warpgroup computes 64 rows. Of 64 dimensions the
// matrix products take half the time, the exponentials the same: a third warpgroup fills the gaps.
template <int D>
struct Shape {
  static constexpr int kGroups = D == 64 ? 3 : 2;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (1 + kGroups);
  static constexpr int kConsumerWarps = 4 * kGroups;
  static constexpr int kProducerRegisters = D == 64 ? 32 : 40;
  static constexpr int kConsumerRegisters = D == 64 ? 160 : 232;
  static constexpr int kPanels = D / kSwizzleColumns;
  static constexpr int kStages = D == 64 ? 4 : 2;
  static constexpr int kQueryPanelBytes = kRows * kSwizzleRowBytes;
};

template <int D>
struct Shared {
  using S = Shape<D>;
  alignas(1024) unsigned char q[kTileSlots][S::kPanels * S::kQueryPanelBytes];
  alignas(1024) unsigned char k[S::kStages][S::kPanels * kKeyPanelBytes];
  alignas(1024) unsigned char v[S::kStages][S::kPanels * kKeyPanelBytes];
  std::int64_t row_source[kTileSlots][S::kRows];  // token * num_q_heads + head; -1: no row
  std::int64_t row_place[kTileSlots][S::kRows];   // row of `out` or of the partials
  float row_lse[S::kRows];                        // of results that are still to be merged
  TileInfo info[kTileSlots];
  alignas(8) std::uint64_t tile_full[kTileSlots];
  std::uint64_t tile_empty[kTileSlots];
  std::uint64_t q_full[kTileSlots];
  std::uint64_t k_full[S::kStages], k_empty[S::kStages];
  std::uint64_t v_full[S::kStages], v_empty[S::kStages];
  std::uint64_t v_raw;
};
// Dynamic shared memory begins at a multiple of 16 bytes only.
template <int D>
constexpr int kSharedBytes = static_cast<int>(sizeof(Shared<D>)) + 1024;

// Position in a ring of stages.
template <int kStages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <bool kListed>
__device__ TileInfo find_tile(const TileAttentionParams& p, int tile) {
  TileInfo info{};
  info.valid = 1;
  if constexpr (kListed) {
    const ListTile t = p.list_tiles[tile];
    info.seq = t.seq;
    info.kv_head = t.kv_head;
    info.num_rows = t.num_rows;
    info.key_begin = t.block * p.pages.moba_block_size;
    info.key_end = info.key_begin + p.pages.moba_block_size;
    info.unmasked_begin = info.key_begin;
    info.unmasked_end = info.key_end;
    info.first_entry = t.first_entry;
  } else {
    const RowTile t = p.row_tiles[tile];
    info.seq = t.seq;
    info.kv_head = t.kv_head;
    info.num_rows = t.num_rows;
    info.key_begin = t.key_begin;
    info.key_end = t.key_end;
    info.first_row = t.first_row;
    info.first_token = p.batch.cu_seqlens_q[t.seq];
    const int num_tokens = p.batch.cu_seqlens_q[t.seq + 1] - info.first_token;
    info.first_position = p.batch.seq_lens[t.seq] - num_tokens;
    const int last = info.first_position + (t.first_row + t.num_rows - 1) / p.heads.group_div;
    info.unmasked_begin = p.window > 0 ? last / p.pages.moba_block_div * p.window : 0;
    info.unmasked_end = min(t.key_end, info.first_position + t.first_row / p.heads.group_div + 1);
  }
  return info;
}

// Fetches tiles' keys and values. One warp.
template <int D, bool kListed>
__device__ void produce_keys(const TileAttentionParams& p, const CUtensorMap* k_map,
                             const CUtensorMap* v_map, std::int32_t* tile_counter, int box_rows,
                             Shared<D>& shared, int lane) {
  using S = Shape<D>;
  const int num_tiles = kListed ? *p.num_list_tiles : p.num_row_tiles;
  Ring<S::kStages> k_ring;
  Ring<S::kStages> v_ring;
  std::uint32_t raw_parity = 0;
  int next = 0;
  if (lane == 0) next = atomicAdd(tile_counter, 1);
  for (int count = 0;; ++count) {
    const int slot = count % kTileSlots;
    const int tile = __shfl_sync(0xffffffffU, next, 0);
    barrier_wait(smem_address(&shared.tile_empty[slot]), (count / kTileSlots & 1) ^ 1);
    if (tile >= num_tiles) {
      if (lane == 0) {
        shared.info[slot].valid = 0;
        barrier_arrive(smem_address(&shared.tile_full[slot]));
        // The last block to end leaves the counter as it was.
        if (atomicAdd(tile_counter + 1, 1) == static_cast<int>(gridDim.x) - 1) {
          tile_counter[0] = 0;
          tile_counter[1] = 0;
        }
      }
      return;
    }
    const TileInfo info = find_tile<kListed>(p, tile);
    if (lane == 0) {
      shared.info[slot] = info;
      barrier_arrive(smem_address(&shared.tile_full[slot]));
      next = atomicAdd(tile_counter, 1);
    }
    const std::int32_t* table = p.batch.tables + p.batch.table_begin[info.seq];
    const int seq_len = p.batch.seq_lens[info.seq];
    const int boxes = kTileKeys / box_rows;
    const auto row_of = [&](int key) {  // of the tensor maps
      const int logical = key / p.pages.block_size_div;
      const int page = __ldg(table + logical);
      return (page * p.heads.num_kv_heads + info.kv_head) * p.pages.block_size + key -
             logical * p.pages.block_size;
    };
    const auto fetch = [&](const CUtensorMap* map, unsigned char* target, std::uint64_t* full,
                           int first) {
      // Lane b has the place of box b.
      const int key = first + lane * box_rows;
      const bool there = lane < boxes && key < seq_len;
      const int row = there ? row_of(key) : 0;
      const int num_boxes = __popc(__ballot_sync(0xffffffffU, there));
      const std::uint32_t barrier = smem_address(full);
      if (lane == 0) {
        barrier_arrive_expect(barrier, static_cast<std::uint32_t>(num_boxes * box_rows *
                                                                  kSwizzleRowBytes * S::kPanels));
      }
      __syncwarp();
      if (there) {
#pragma unroll
        for (int panel = 0; panel < S::kPanels; ++panel) {
          copy_box(
              smem_address(target) + static_cast<std::uint32_t>(panel * kKeyPanelBytes +
                                                                lane * box_rows * kSwizzleRowBytes),
              map, panel * kSwizzleColumns, row, barrier);
        }
      }
    };
    const auto fetch_keys = [&](int first) {
      const int stage = k_ring.stage;
      barrier_wait(smem_address(&shared.k_empty[stage]), k_ring.parity ^ 1);
      fetch(k_map, shared.k[stage], &shared.k_full[stage], first);
      k_ring.next();
    };
    const auto fetch_values = [&](int first) {
      const int stage = v_ring.stage;
      barrier_wait(smem_address(&shared.v_empty[stage]), v_ring.parity ^ 1);
      if (first + kTileKeys <= seq_len) {
        fetch(v_map, shared.v[stage], &shared.v_full[stage], first);
      } else {
        // Past the sequence's end there may be anything, and zero times that need not be zero.
        fetch(v_map, shared.v[stage], &shared.v_raw, first);
        barrier_wait(smem_address(&shared.v_raw), raw_parity);
        raw_parity ^= 1;
        const int rows = seq_len - first;
        for (int i = lane; i < (kTileKeys - rows) * 8 * S::kPanels; i += 32) {
          const int row = rows + i / (8 * S::kPanels);
          const int piece = i % (8 * S::kPanels);
          *reinterpret_cast<uint4*>(shared.v[stage] + piece / 8 * kKeyPanelBytes +
                                    row * kSwizzleRowBytes + piece % 8 * 16) =
              make_uint4(0, 0, 0, 0);
        }
        fence_async_proxy();
        __syncwarp();
        if (lane == 0) barrier_arrive(smem_address(&shared.v_full[stage]));
      }
      v_ring.next();
    };
    fetch_keys(info.key_begin);
    for (int first = info.key_begin; first < info.key_end; first += kTileKeys) {
      if (first + kTileKeys < info.key_end) fetch_keys(first + kTileKeys);
      fetch_values(first);
    }
  }
}

// Gathers tiles' queries. kQueryThreads threads.
template <typename T, int D, bool kListed>
__device__ void produce_queries(const TileAttentionParams& p, Shared<D>& shared, int thread) {
  using S = Shape<D>;
  constexpr int kPieces = D / 8;
  for (int count = 0;; ++count) {
    const int slot = count % kTileSlots;
    barrier_wait(smem_address(&shared.tile_full[slot]), count / kTileSlots & 1);
    const TileInfo& info = shared.info[slot];
    if (!info.valid) {
      barrier_arrive(smem_address(&shared.q_full[slot]));
      return;
    }
    for (int r = thread; r < S::kRows; r += kQueryThreads) {
      std::int64_t source = -1;
      std::int64_t place = -1;
      if (r < info.num_rows) {
        if constexpr (kListed) {
          const std::uint32_t entry = __ldg(p.entries + info.first_entry + r);
          source = entry >> kSlotBits;
          place = (source - p.partials.first_row) * p.partials.slots + (entry & (kMaxSlots - 1));
        } else {
          const int row = info.first_row + r;
          const int token = row / p.heads.group_div;
          const int head = info.kv_head * p.heads.group + row - token * p.heads.group;
          source = static_cast<std::int64_t>(info.first_token + token) * p.heads.num_q_heads + head;
          place = p.partial_slot < 0
                      ? source
                      : (source - p.partials.first_row) * p.partials.slots + p.partial_slot;
        }
      }
      shared.row_source[slot][r] = source;
      shared.row_place[slot][r] = place;
    }
    named_barrier_sync(kQueryBarrier, kQueryThreads);
    const T* q = static_cast<const T*>(p.q);
    const std::uint32_t target = smem_address(shared.q[slot]);
#pragma unroll 4
    for (int i = thread; i < S::kRows * kPieces; i += kQueryThreads) {
      const int row = i / kPieces;
      const int piece = i % kPieces;
      const std::int64_t source = shared.row_source[slot][row];
      const bool valid = source >= 0 && piece * 8 < p.heads.head_dim;
      cp_async_16(target + static_cast<std::uint32_t>(piece / 8 * S::kQueryPanelBytes) +
                      swizzled(row, piece % 8),
                  valid ? q + source * p.heads.head_dim + piece * 8 : q, valid);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    barrier_arrive(smem_address(&shared.q_full[slot]));
  }
}

}  // namespace moba::cuda::sm90
