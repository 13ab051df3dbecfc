// The unit of decode: up to 16 query heads of one KV head of one sequence.
#pragma once

#include "attention/cuda/decode.h"
#include "attention/cuda/fast_div.cuh"

namespace moba::cuda {

struct DecodeUnit {
  const std::int32_t* table;  // page ids of the sequence
  int kv_head;
  int num_rows;                  // query heads
  std::int64_t first_query_row;  // token * num_q_heads + first query head
  int num_keys;
  int num_selected;  // 0: every key
  const std::int32_t* blocks;
  const std::uint32_t* masks;
  int num_chunks;
};

__device__ __forceinline__ int ceil_div_chunks(int keys) {
  return (keys + kChunkKeys - 1) / kChunkKeys;
}

// Without what the gate chose.
__device__ __forceinline__ DecodeUnit decode_unit_rows(const DecodeParams& p, int index) {
  DecodeUnit unit{};
  const int seq = index / p.heads_div;
  const int head_tile = index % p.heads_div;
  unit.kv_head = head_tile / p.tiles_div;
  const int first_row = head_tile % p.tiles_div * kUnitRows;
  unit.num_keys = p.decode_lens[seq];
  unit.num_rows = min(kUnitRows, p.heads.group - first_row);
  unit.table = p.batch.tables + p.batch.table_begin[seq];
  unit.first_query_row =
      static_cast<std::int64_t>(p.batch.cu_seqlens_q[seq]) * p.heads.num_q_heads +
      unit.kv_head * p.heads.group + first_row;
  return unit;
}

template <bool kSelected>
__device__ __forceinline__ DecodeUnit decode_unit(const DecodeParams& p, int index) {
  DecodeUnit unit = decode_unit_rows(p, index);
  unit.num_chunks = ceil_div_chunks(unit.num_keys);
  if constexpr (kSelected) {
    unit.num_selected = p.selection.count[index];
    unit.blocks = p.selection.blocks + static_cast<std::int64_t>(index) * kMaxUnion;
    unit.masks = p.selection.masks + static_cast<std::int64_t>(index) * kMaxUnion;
    unit.num_chunks = p.unit_chunks[index];
  }
  return unit;
}

}  // namespace moba::cuda
