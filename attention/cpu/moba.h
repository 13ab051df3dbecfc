// MoBA attention of a span of queries.
#pragma once

#include "attention/cpu/layer_run.h"

namespace moba::cpu {

// Computes the span and writes its outputs. The block of every query has at least topk blocks
// before it (other queries see all their keys: full attention). At most WorkspaceLimits::moba_rows
// rows, and rows x gate_stride(topk - 1) at most moba_choices.
//
// The gate gives every row its blocks; these are inverted into a list of rows for each block; then
// the blocks are gone through in ascending order, so that a block's keys are brought once for all
// rows that chose it.
void attend_moba(const LayerRun& run, const QuerySpan& span, int topk,
                 const WorkspaceLimits& limits, const ThreadWorkspace& workspace);

// The gate alone: workspace.choices[row, gate_stride(topk - 1)], for the tests and benchmarks as
// well. load_queries comes before.
void choose_blocks(const LayerRun& run, const QuerySpan& span, int topk,
                   const WorkspaceLimits& limits, const ThreadWorkspace& workspace);

}  // namespace moba::cpu
