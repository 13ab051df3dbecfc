// The vectorised inner parts of attention, compiled for each instruction set. They work on tiles:
// rows (query heads of tokens that share a KV head) against up to kTileKeys keys.
//
// Every row is computed by the same operations in the same order whatever rows stand beside it: a
// score is one chain of multiply-adds over the head's dimensions from the first, an output element
// one chain over the keys from the first, and keys that a row does not see contribute exact zeros.
// So results do not depend on how rows are put into tiles.
#pragma once

#include <cstdint>

#include "device/cpu/simd_dispatch.h"
#include "device/dtype.h"

namespace moba::cpu {

inline constexpr int kTileKeys = 64;
inline constexpr int kMaxHeadDim = 256;

// Static, so that a build without inlining gives each instruction set its own copy.
// Elements between the rows' lists of chosen blocks.
static constexpr int gate_stride(int count) { return (count + 15) / 16 * 16; }

// Floats between rows of values and outputs in scratch memory.
static constexpr int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }

// The state of online softmax for some rows. With x = log2(e) * scale * (q . k) for a key, over the
// keys seen so far: the largest x, sum 2^(x - max) and sum 2^(x - max) * value.
struct SoftmaxState {
  float* max;  // [num_rows]
  float* sum;  // [num_rows]; 0: nothing seen yet, max and out are not set
  float* out;  // [num_rows, padded_dim(head_dim)]
};

// Rows against one tile of keys.
struct AttendTile {
  const float* const* q;  // [num_rows] rows of head_dim
  const float* keys;      // from pack_keys
  const float* values;    // [num_keys, value_stride], rows of padded_dim(head_dim)
  std::int64_t value_stride;
  // [num_rows] how many of the keys a row sees, the first ones: 1 .. num_keys, never falling from
  // row to row. Null: all.
  const std::int32_t* limits;
  int num_rows;
  int num_keys;  // 1 .. kTileKeys
  int head_dim;
  float scale;  // of the scores, positive
  bool first;   // the state is set, not continued
  SoftmaxState state;
  // Brought to the cache meanwhile: next_bytes from each, keys and values of the tile to come. May
  // be null.
  const void* next_keys;
  const void* next_values;
  std::int64_t next_bytes;
};

// Rows against one tile of centroids.
struct GateTile {
  const float* const* q;     // [num_rows] rows of head_dim
  const float* centroids;    // from pack_keys
  const std::int32_t* owns;  // [num_rows] the block a row stands in, never falling: it sees those
                             // before
  int num_rows;
  int num_blocks;   // of the tile, 1 .. kTileKeys
  int first_block;  // of the tile
  int head_dim;
  int count;           // how many blocks a row keeps, >= 1
  int best_stride;     // gate_stride(count)
  float* best_scores;  // [num_rows, best_stride] falling; at first -infinity
  std::int32_t* best;  // [num_rows, best_stride] their blocks; at first -1
};

// Keys with the lanes over keys: panels of as many keys as two vectors hold, each [head_dim][keys
// of the panel]; keys past num_keys are zeros. rows: [num_keys] pointers to rows of head_dim. out
// has room for kTileKeys * head_dim floats.
MOBA_SIMD_DECLARE(void pack_keys(const void* const* rows, DType dtype, int num_keys, int head_dim,
                                 float* out))

// Rows as floats, padded_dim(head_dim) apart, the padding zeroed.
MOBA_SIMD_DECLARE(void widen_rows(const void* const* rows, DType dtype, std::int64_t num_rows,
                                  int head_dim, float* out))

MOBA_SIMD_DECLARE(void attend_tile(const AttendTile& tile))

// Takes the tile's blocks, from the last to the first, into the best of the rows: a block stands
// before those of lower score, so of equal scores the larger index stays ahead. Tiles must come
// from the last to the first. Scores that are NaN or -infinity are never taken.
MOBA_SIMD_DECLARE(void gate_tile(const GateTile& tile))

// Continues row rows[i] (row i where rows is null) of `total` with row i of `part`.
MOBA_SIMD_DECLARE(void merge_rows(const SoftmaxState& part, std::int64_t num_rows, int head_dim,
                                  const std::int32_t* rows, const SoftmaxState& total))

// out[i] = state.out[i] / state.sum[i]. out: [num_rows] pointers to rows of head_dim.
MOBA_SIMD_DECLARE(void finish_rows(const SoftmaxState& state, std::int64_t num_rows, int head_dim,
                                   DType dtype, void* const* out))

// The kernels of one instruction set.
struct AttentionKernels {
  decltype(&generic::pack_keys) pack_keys;
  decltype(&generic::widen_rows) widen_rows;
  decltype(&generic::attend_tile) attend_tile;
  decltype(&generic::gate_tile) gate_tile;
  decltype(&generic::merge_rows) merge_rows;
  decltype(&generic::finish_rows) finish_rows;
};

inline AttentionKernels attention_kernels(Isa isa) {
  return {MOBA_SIMD_SELECT(isa, pack_keys),   MOBA_SIMD_SELECT(isa, widen_rows),
          MOBA_SIMD_SELECT(isa, attend_tile), MOBA_SIMD_SELECT(isa, gate_tile),
          MOBA_SIMD_SELECT(isa, merge_rows),  MOBA_SIMD_SELECT(isa, finish_rows)};
}

}  // namespace moba::cpu
