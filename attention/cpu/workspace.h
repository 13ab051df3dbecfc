// Scratch memory of the attention threads, sized once from the configuration.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cpu/attention_kernels.h"
#include "device/buffer.h"

namespace moba::cpu {

// Sizes of the scratch memory, and so the most that one work item may hold. A row is a query head
// of a token.
struct WorkspaceLimits {
  std::int64_t segment_rows = 0;  // rows attended at a time; items of full attention have no more
  std::int64_t moba_rows = 0;     // rows of a MoBA item
  std::int64_t moba_choices = 0;  // of a MoBA item: rows x gate_stride(topk - 1)
  std::int64_t gate_scores = 0;   // the same for the rows that pass the gate together
  std::int64_t max_blocks = 0;    // MoBA blocks of the longest sequence
  std::int64_t partial_rows = 0;  // of all threads: rows x segments of split items
};

// A pure function of its arguments.
WorkspaceLimits workspace_limits(const AttentionConfig& config, int num_threads);

// The largest moba_topk of a row that has more blocks to choose from.
inline constexpr int kMaxMobaTopk = 1024;

// One thread's share. Everything is scratch between two items.
struct ThreadWorkspace {
  const float** q_rows;       // [moba_rows] the item's queries
  float* q_floats;            // [moba_rows, padded_dim]; null where q is float32
  const void** stored_rows;   // [moba_rows] the item's queries as stored; null like q_floats
  void** out_rows;            // [moba_rows]
  SoftmaxState total;         // moba_rows rows
  std::int32_t* owns;         // [moba_rows]
  std::int32_t* choices;      // [moba_choices]
  float* choice_scores;       // [gate_scores]
  std::int32_t* listed_rows;  // [moba_choices] rows by the block they chose
  std::int32_t* list_starts;  // [max_blocks + 2]
  const float** segment_q;    // [segment_rows]
  std::int32_t* limits;       // [segment_rows]
  SoftmaxState segment;       // segment_rows rows
  float* keys;                // [packed tile]
  float* values;              // [kTileKeys, padded_dim]
};

// Owns the memory of all threads and of the partial results of split items.
class Workspace {
 public:
  Workspace(const AttentionConfig& config, int num_threads);

  const WorkspaceLimits& limits() const { return limits_; }
  const ThreadWorkspace& thread(int index) const {
    return threads_[static_cast<std::size_t>(index)];
  }
  // Rows [first, ...) of the partial results.
  SoftmaxState partial(std::int64_t first) const;
  std::int64_t num_bytes() const { return static_cast<std::int64_t>(buffer_.size()); }

 private:
  WorkspaceLimits limits_;
  int padded_dim_;
  Buffer buffer_;
  std::vector<ThreadWorkspace> threads_;
  SoftmaxState partial_{};
};

}  // namespace moba::cpu
