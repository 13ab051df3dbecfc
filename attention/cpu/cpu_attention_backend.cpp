#include "attention/cpu/cpu_attention_backend.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attention_check.h"
#include "attention/cpu/dense.h"
#include "attention/cpu/moba.h"
#include "attention/cpu/work_plan.h"
#include "attention/cpu/workspace.h"

namespace moba::cpu {
namespace {

class CpuAttentionBackend : public AttentionBackend {
 public:
  CpuAttentionBackend(DeviceContext& context, const AttentionConfig& config)
      : context_(context),
        config_(config),
        kernels_(attention_kernels(context.isa())),
        workspace_(config, context.pool().num_threads()),
        layer_plans_(static_cast<std::size_t>(config.num_layers)) {}

  void plan(const AttentionMetadata& metadata) override {
    num_tokens_ = -1;
    max_page_ = check_metadata(config_, metadata);
    // Layers whose sequences have the same topk share a plan.
    const auto num_seqs = static_cast<std::size_t>(metadata.num_seqs);
    plans_.clear();
    std::vector<std::span<const std::int32_t>> planned;
    std::size_t max_splits = 0;
    for (std::size_t layer = 0; layer < layer_plans_.size(); ++layer) {
      const auto topk = metadata.moba_topk.subspan(layer * num_seqs, num_seqs);
      const auto same = std::find_if(planned.begin(), planned.end(), [&](const auto& other) {
        return std::equal(topk.begin(), topk.end(), other.begin(), other.end());
      });
      layer_plans_[layer] = static_cast<std::size_t>(same - planned.begin());
      if (same != planned.end()) continue;
      planned.push_back(topk);
      plans_.push_back(make_work_plan(config_, metadata, topk.data(), workspace_.limits(),
                                      context_.pool().num_threads()));
      max_splits = std::max(max_splits, plans_.back().splits.size());
    }
    segments_left_ = std::vector<std::atomic<std::int64_t>>(max_splits);
    num_tokens_ = metadata.cu_seqlens_q[num_seqs];
  }

  void run(int layer, const TensorView& q, const PagedKvView& cache,
           const TensorView& out) override {
    MOBA_CHECK(num_tokens_ >= 0, "attention: run without a plan");
    check_run(config_, layer, num_tokens_, max_page_, q, cache, out);
    const WorkPlan& work = plans_[layer_plans_[static_cast<std::size_t>(layer)]];
    stats_.blocks_attended += work.stats.blocks_attended;
    stats_.blocks_available += work.stats.blocks_available;

    LayerRun layer_run{};
    layer_run.kernels = kernels_;
    layer_run.cache = &cache;
    layer_run.q = q.raw();
    layer_run.out = out.raw();
    layer_run.num_q_heads = config_.num_q_heads;
    layer_run.softmax_scale = config_.softmax_scale;
    for (std::size_t i = 0; i < work.splits.size(); ++i) {
      segments_left_[i].store(work.splits[i].num_segments, std::memory_order_relaxed);
    }
    const auto body = [&](std::int64_t index, int thread) {
      run_item(layer_run, work, work.items[static_cast<std::size_t>(index)],
               workspace_.thread(thread));
    };
    context_.pool().parallel_for(static_cast<std::int64_t>(work.items.size()), body);
  }

  AttentionStats take_stats() override {
    const AttentionStats stats = stats_;
    stats_ = {};
    return stats;
  }

  std::int64_t workspace_bytes() const override { return workspace_.num_bytes(); }

 private:
  void run_item(const LayerRun& run, const WorkPlan& work, const WorkItem& item,
                const ThreadWorkspace& workspace) {
    if (item.topk > 0) {
      attend_moba(run, item.span, item.topk, workspace_.limits(), workspace);
      return;
    }
    if (item.split < 0) {
      attend_dense(run, item.span, workspace);
      return;
    }
    const auto index = static_cast<std::size_t>(item.split);
    const SplitSpan& split = work.splits[index];
    const std::int64_t rows = std::int64_t{item.span.num_tokens} * run.group();
    attend_dense_segment(run, item.span, item.segment, workspace,
                         workspace_.partial(split.first_part + item.segment * rows));
    // Whoever finishes the last segment puts them together.
    if (segments_left_[index].fetch_sub(1, std::memory_order_acq_rel) == 1) {
      merge_dense_segments(run, item.span, workspace_.partial(split.first_part), workspace);
    }
  }

  DeviceContext& context_;
  AttentionConfig config_;
  AttentionKernels kernels_;
  Workspace workspace_;
  std::int64_t num_tokens_ = -1;  // of the planned batch; -1: none
  std::int32_t max_page_ = -1;
  std::vector<WorkPlan> plans_;
  std::vector<std::size_t> layer_plans_;  // [num_layers] index into plans_
  std::vector<std::atomic<std::int64_t>> segments_left_;
  AttentionStats stats_;
};

}  // namespace

std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config) {
  return std::make_unique<CpuAttentionBackend>(context, config);
}

}  // namespace moba::cpu
