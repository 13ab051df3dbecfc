// The pieces of work that a plan hands to the kernels: what host and device both know.
#pragma once

#include <cstdint>

namespace moba::cuda {

// An entry of a list: (row << kSlotBits | slot), row = token * num_q_heads + query head of the
// batch, slot = where the row's partial result goes.
inline constexpr int kSlotBits = 5;
inline constexpr int kMaxSlots = 1 << kSlotBits;
// The largest moba_topk for which there may be more blocks than it chooses.
inline constexpr int kMaxSelect = kMaxSlots;

// Consecutive rows of one (sequence, KV head) and the keys they may see. Row r at position p sees
// the keys of [max(key_begin, window start), min(key_end - 1, p)].
struct RowTile {
  std::int32_t seq;
  std::int32_t kv_head;
  std::int32_t first_row;  // of the sequence's rows in this batch
  std::int32_t num_rows;
  std::int32_t key_begin;
  std::int32_t key_end;
};

// Query rows of a tile.
inline constexpr int kTileRows = 128;

// Listed rows that all chose one MoBA block.
struct ListTile {
  std::int32_t seq;
  std::int32_t kv_head;
  std::int32_t block;
  std::int32_t first_entry;  // of the entry array
  std::int32_t num_rows;
};

// Rows that choose: of one (sequence, KV head), all with at least topk blocks before their own.
struct GateTile {
  std::int32_t seq;
  std::int32_t kv_head;
  std::int32_t first_row;  // of the sequence's rows in this batch
  std::int32_t num_rows;
  std::int32_t first_bucket;  // list of the sequence's block 0 for this KV head
};

// The blocks of one (sequence, KV head) that rows may choose: lists [first_bucket, first_bucket +
// num_blocks).
struct BucketRange {
  std::int32_t first_bucket;
  std::int32_t seq;
  std::int32_t kv_head;
};

// Rows whose choices are counted together: query tokens [token_begin, token_end) of the batch, all
// of one sequence.
struct RankTile {
  std::int32_t kv_head;
  std::int32_t token_begin;
  std::int32_t token_end;
  std::int32_t first_bucket;
  std::int32_t num_blocks;
};

inline constexpr int kGateRows = 128;
inline constexpr int kRankRows = 1024;

}  // namespace moba::cuda
