// Where everything that an attention backend needs of device memory lies: fixed when it is made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cuda/work_plan.h"

namespace moba::cuda {

// Arrays put one after the other into one allocation, each aligned to 256 bytes.
class Layout {
 public:
  // Returns the offset of `count` more elements of T.
  template <typename T>
  std::size_t add(std::int64_t count) {
    const std::size_t offset = size_;
    size_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return offset;
  }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

// Offsets in bytes. The counters [unit_arrivals, selection_count) and [counts, begins) are zero
// between launches.
struct WorkspaceLayout {
  // Uploaded at every plan().
  std::size_t cu_seqlens_q, seq_lens, table_begin, decode_lens;
  std::vector<std::size_t> topk, decode_starts, decode_part_chunks;  // by layer plan
  std::size_t tables;
  std::int64_t table_entries;
  std::size_t uploaded;  // bytes up to here
  // Decode.
  std::size_t part_out, part_stats, unit_arrivals, gate_arrivals, tile_counter;
  std::size_t selection_count, selection_blocks, selection_masks;
  std::size_t candidate_scores, candidate_blocks, unit_chunks;
  // MoBA prefill.
  std::size_t partial_out, partial_lse, chosen, ranks, entries, counts, begins, list_tiles,
      num_list_tiles;
  std::size_t size;
};

struct WorkspaceShape {
  bool by_rows = false;  // the kernels without matrix instructions, which need metadata only
  int tile_rows = 0;
  int decode_parts = 0;
  std::int64_t max_partial_bytes = 0;
};

PlanLimits make_plan_limits(const AttentionConfig& config, const WorkspaceShape& shape);

WorkspaceLayout make_workspace_layout(const AttentionConfig& config, const PlanLimits& limits,
                                      bool by_rows);

// Blocks of threads that share a unit's blocks in decode's gate.
int gate_splits(const AttentionConfig& config, int num_units);

}  // namespace moba::cuda
