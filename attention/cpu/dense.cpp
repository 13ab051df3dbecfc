#include "attention/cpu/dense.h"

#include <algorithm>

#include "attention/cpu/segments.h"

namespace moba::cpu {
namespace {

// The first row of the span that sees the segment; those after it do, too.
std::int64_t first_row_of(const QuerySpan& span, std::int64_t segment, int group) {
  return std::max<std::int64_t>(0, segment_begin(segment) - span.first_position) * group;
}

void attend(const LayerRun& run, const QuerySpan& span, std::int64_t segment, KvReader& reader,
            const ThreadWorkspace& workspace, const SoftmaxState& part) {
  const int group = run.group();
  SegmentRows rows{};
  rows.first_row = first_row_of(span, segment, group);
  rows.q = workspace.q_rows + rows.first_row;
  rows.count = static_cast<int>(span.num_tokens * group - rows.first_row);
  rows.causal = true;
  rows.first_position = span.first_position;
  const std::int64_t end =
      std::min(segment_begin(segment + 1), span.first_position + span.num_tokens);
  rows.next_begin =
      end == segment_begin(segment + 1) && segment + 1 < num_dense_segments(span) ? end : -1;
  attend_segment(run, rows, segment_begin(segment), end, reader, workspace, part);
}

}  // namespace

std::int64_t num_dense_segments(const QuerySpan& span) {
  return segment_of(span.first_position + span.num_tokens - 1) + 1;
}

void attend_dense(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace) {
  const int group = run.group();
  const int head_dim = run.cache->head_dim;
  const std::int64_t num_rows = std::int64_t{span.num_tokens} * group;
  load_queries(run, span, workspace);
  KvReader reader(run, span, workspace);
  std::fill(workspace.total.sum, workspace.total.sum + num_rows, 0.0F);
  const std::int64_t num_segments = num_dense_segments(span);
  for (std::int64_t segment = 0; segment < num_segments; ++segment) {
    attend(run, span, segment, reader, workspace, workspace.segment);
    const std::int64_t first = first_row_of(span, segment, group);
    run.kernels.merge_rows(workspace.segment, num_rows - first, head_dim, nullptr,
                           rows_from(workspace.total, first, head_dim));
  }
  run.kernels.finish_rows(workspace.total, num_rows, head_dim, run.cache->dtype,
                          workspace.out_rows);
}

void attend_dense_segment(const LayerRun& run, const QuerySpan& span, std::int64_t segment,
                          const ThreadWorkspace& workspace, const SoftmaxState& part) {
  load_queries(run, span, workspace);
  KvReader reader(run, span, workspace);
  attend(run, span, segment, reader, workspace,
         rows_from(part, first_row_of(span, segment, run.group()), run.cache->head_dim));
}

void merge_dense_segments(const LayerRun& run, const QuerySpan& span, const SoftmaxState& parts,
                          const ThreadWorkspace& workspace) {
  const int group = run.group();
  const int head_dim = run.cache->head_dim;
  const std::int64_t num_rows = std::int64_t{span.num_tokens} * group;
  load_queries(run, span, workspace);
  std::fill(workspace.total.sum, workspace.total.sum + num_rows, 0.0F);
  const std::int64_t num_segments = num_dense_segments(span);
  for (std::int64_t segment = 0; segment < num_segments; ++segment) {
    const std::int64_t first = first_row_of(span, segment, group);
    run.kernels.merge_rows(rows_from(parts, segment * num_rows + first, head_dim), num_rows - first,
                           head_dim, nullptr, rows_from(workspace.total, first, head_dim));
  }
  run.kernels.finish_rows(workspace.total, num_rows, head_dim, run.cache->dtype,
                          workspace.out_rows);
}

}  // namespace moba::cpu
