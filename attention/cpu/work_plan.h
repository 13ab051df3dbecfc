// Cuts a batch into work items for the threads. Pure: a function of its arguments only.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cpu/layer_run.h"
#include "attention/cpu/workspace.h"

namespace moba::cpu {

// What one thread computes without waiting for others.
struct WorkItem {
  QuerySpan span;
  int topk;                 // > 0: MoBA; 0: full attention
  std::int32_t split = -1;  // >= 0: only the segment, into the parts of splits[split]
  std::int64_t segment = 0;
};

// A span whose segments are items of their own.
struct SplitSpan {
  QuerySpan span;
  std::int64_t first_part;  // row of the partial results
  std::int64_t num_segments;
};

struct WorkPlan {
  std::vector<WorkItem> items;  // the costly ones first
  std::vector<SplitSpan> splits;
  AttentionStats stats;
};

// The items of a layer whose sequences have these topk [num_seqs]. The metadata is checked. Throws
// Error if a topk is larger than kMaxMobaTopk where there are more blocks to choose from.
WorkPlan make_work_plan(const AttentionConfig& config, const AttentionMetadata& metadata,
                        const std::int32_t* topk, const WorkspaceLimits& limits, int num_threads);

}  // namespace moba::cpu
