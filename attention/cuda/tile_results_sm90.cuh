// From a tile's staged rows to the output or the partial results.
#pragma once

#include "attention/cuda/tile_pipeline_sm90.cuh"

namespace moba::cuda::sm90 {

// A warp's 16 rows, staged in Q's shared memory, to where they belong.
template <typename T, int D>
__device__ __forceinline__ void write_rows(const TileAttentionParams& p, T* base,
                                           const Shared<D>& shared, int slot, int first_row,
                                           int lane) {
  constexpr int kPieces = D / 8;
  const int head_dim = p.heads.head_dim;
#pragma unroll 4
  for (int i = lane; i < 16 * kPieces; i += 32) {
    const int row = first_row + i / kPieces;
    const int piece = i % kPieces;
    const std::int64_t place = shared.row_place[slot][row];
    if (place < 0 || piece * 8 >= head_dim) continue;
    *reinterpret_cast<uint4*>(base + place * head_dim + piece * 8) =
        *reinterpret_cast<const uint4*>(shared.q[slot] + piece / 8 * Shape<D>::kQueryPanelBytes +
                                        swizzled(row, piece % 8));
  }
}

template <typename T>
__device__ __forceinline__ void add_weighted(float (&sum)[8], float weight, const uint4& x) {
  const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack2<T>(words[i]);
    sum[2 * i] = fmaf(weight, pair.x, sum[2 * i]);
    sum[2 * i + 1] = fmaf(weight, pair.y, sum[2 * i + 1]);
  }
}

// The same, put together with the rows' partial results.
template <typename T, int D>
__device__ __forceinline__ void write_merged(const TileAttentionParams& p, const Shared<D>& shared,
                                             int slot, int first_row, int lane) {
  constexpr int kPieces = D / 8;
  // Partial results that are on their way at once, as registers allow.
  constexpr int kBatch = D == 64 ? 4 : 8;
  constexpr int kUnroll = D == 64 ? 1 : 2;
  const int head_dim = p.heads.head_dim;
#pragma unroll kUnroll
  for (int i = lane; i < 16 * kPieces; i += 32) {
    const int row = first_row + i / kPieces;
    const int piece = i % kPieces;
    const std::int64_t place = shared.row_place[slot][row];
    if (place < 0 || piece * 8 >= head_dim) continue;
    const std::int64_t first = (place - p.partials.first_row) * p.partials.slots;
    const float* lse = p.partials.lse + first;
    const uint4* partial =
        reinterpret_cast<const uint4*>(static_cast<const T*>(p.partials.out) + first * head_dim) +
        piece;
    const float own = shared.row_lse[row];
    // The first batch is on its way before its weights are known.
    uint4 x[kBatch];
    const auto fetch = [&](int begin) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (begin + j < p.merge_slots) {
          x[j] = __ldcs(partial + static_cast<std::int64_t>(begin + j) * (head_dim / 8));
        }
      }
    };
    fetch(1);
    float largest = own;
    for (int s = 1; s < p.merge_slots; ++s) largest = fmaxf(largest, __ldg(lse + s));
    float total = exp2_fast(own - largest);
    float sum[8] = {};
    add_weighted<T>(
        sum, total,
        *reinterpret_cast<const uint4*>(shared.q[slot] + piece / 8 * Shape<D>::kQueryPanelBytes +
                                        swizzled(row, piece % 8)));
    for (int begin = 1; begin < p.merge_slots; begin += kBatch) {
      if (begin > 1) fetch(begin);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const float weight =
            begin + j < p.merge_slots ? exp2_fast(__ldg(lse + begin + j) - largest) : 0.0F;
        total += weight;
        // A slot without a result has weight zero and may hold anything.
        if (weight > 0.0F) add_weighted<T>(sum, weight, x[j]);
      }
    }
    const float inverse = 1.0F / total;
    uint4 result;
    result.x = pack2<T>(sum[0] * inverse, sum[1] * inverse);
    result.y = pack2<T>(sum[2] * inverse, sum[3] * inverse);
    result.z = pack2<T>(sum[4] * inverse, sum[5] * inverse);
    result.w = pack2<T>(sum[6] * inverse, sum[7] * inverse);
    *reinterpret_cast<uint4*>(static_cast<T*>(p.out) + place * head_dim + piece * 8) = result;
  }
}

}  // namespace moba::cuda::sm90
