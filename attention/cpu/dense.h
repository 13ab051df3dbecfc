// Full causal attention of a span of queries.
#pragma once

#include <cstdint>

#include "attention/cpu/layer_run.h"

namespace moba::cpu {

// Computes the span, at most WorkspaceLimits::segment_rows rows, and writes its outputs.
void attend_dense(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace);

// The same in parts, for any threads: each segment of the span into `part` (a row for each of the
// span), then the outputs from the parts of all segments, which stand one after the other at
// `parts`.
void attend_dense_segment(const LayerRun& run, const QuerySpan& span, std::int64_t segment,
                          const ThreadWorkspace& workspace, const SoftmaxState& part);
void merge_dense_segments(const LayerRun& run, const QuerySpan& span, const SoftmaxState& parts,
                          const ThreadWorkspace& workspace);

// How many segments a span has.
std::int64_t num_dense_segments(const QuerySpan& span);

}  // namespace moba::cpu
