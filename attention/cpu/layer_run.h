// What the items of one layer's run share, and how an item sees its queries and keys.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/cpu/attention_kernels.h"
#include "attention/cpu/workspace.h"
#include "kvcache/paged_kv_view.h"

namespace moba::cpu {

// One layer of a batch. Borrowed.
struct LayerRun {
  AttentionKernels kernels;
  const PagedKvView* cache;
  const void* q;  // [num_tokens, num_q_heads, head_dim], dtype of the cache
  void* out;      // like q
  int num_q_heads;
  float softmax_scale;

  int group() const { return num_q_heads / cache->num_kv_heads; }
};

// Consecutive tokens of a sequence with the query heads of one KV head: num_tokens x group rows,
// the heads of a token next to each other.
struct QuerySpan {
  const std::int32_t* pages;  // the sequence's block table
  int kv_head;
  std::int64_t first_token;     // in the batch
  std::int64_t first_position;  // in the sequence
  int num_tokens;
};

// Points workspace.q_rows at the span's queries as floats and workspace.out_rows at its outputs.
// The span has at most WorkspaceLimits::moba_rows rows.
void load_queries(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace);

// The rows [first, ...) of a state.
SoftmaxState rows_from(const SoftmaxState& state, std::int64_t first, int head_dim);

// Asks for `bytes` from p on. Items of MoBA jump between rows and blocks, which the processor's own
// prefetching does not see coming.
void prefetch(const void* p, std::int64_t bytes);

// Brings the keys and values of a sequence's KV head to the kernels, a tile at a time.
class KvReader {
 public:
  KvReader(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace);

  // Loads positions [begin, begin + count), count <= kTileKeys, unless they are there already.
  void load(std::int64_t begin, int count);
  const float* keys() const { return keys_; }
  const float* values() const { return values_; }
  std::int64_t value_stride() const { return padded_dim(run_.cache->head_dim); }

  // Names in `tile` what to prefetch: the keys and values from position `begin` to the end of its
  // page, a tile at most.
  void point_next(std::int64_t begin, AttendTile& tile) const;

  // Packs the centroids of blocks [begin, begin + count) where the keys of a tile go.
  void load_centroids(std::int64_t begin, int count);
  void prefetch_centroids(std::int64_t begin, int count) const;

 private:
  const std::byte* centroid(std::int64_t block) const;
  // Rows of k or v at positions [begin, begin + count).
  void point_at(const void* base, std::int64_t begin, int count);

  const LayerRun& run_;
  const std::int32_t* pages_;
  int kv_head_;
  float* keys_;
  float* value_buffer_;
  const float* values_ = nullptr;
  std::int64_t loaded_begin_ = -1;
  int loaded_count_ = 0;
  const void* rows_[kTileKeys];
};

// The rows that attend to a segment together.
struct SegmentRows {
  const float* const* q;        // [count]
  int count;                    // <= WorkspaceLimits::segment_rows
  bool causal;                  // false: every row sees the whole segment
  std::int64_t first_position;  // of row `first_row` of a span, if causal
  std::int64_t first_row;       // rows of a span: row i stands at first_position + (first_row + i)
                                // / group
  // Where the keys begin that are needed after this segment; negative: none that is known.
  std::int64_t next_begin;

  std::int64_t position(std::int64_t row, int group) const {
    return first_position + (first_row + row) / group;
  }
};

// Attention of the rows to the keys at [begin, end) alone, into `part`. Every row sees the first
// key; no row sees past `end` that does not end with its own position.
void attend_segment(const LayerRun& run, const SegmentRows& rows, std::int64_t begin,
                    std::int64_t end, KvReader& reader, const ThreadWorkspace& workspace,
                    const SoftmaxState& part);

}  // namespace moba::cpu
