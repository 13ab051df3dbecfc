#include "attention/cpu/workspace.h"

#include <algorithm>
#include <cstddef>

namespace moba::cpu {
namespace {

// Measured on Zen 3 (512 KiB of second-level cache): queries, outputs and a tile of keys and values
// stay there.
constexpr std::int64_t kSegmentStateBytes = 64 << 10;
// Outputs of a MoBA item, gone through once for every block that its rows chose.
constexpr std::int64_t kMobaStateBytes = 4 << 20;
constexpr std::int64_t kMinMobaTileTokens = 64;
constexpr std::int64_t kPartialBytesPerThread = 512 << 10;
constexpr std::int64_t kMinPartialBytes = 1 << 20;
constexpr std::int64_t kMaxPartialBytes = 32 << 20;

constexpr std::size_t kAlignment = 64;

// Lays arrays out one after the other: counts bytes without a base, gives pointers with one.
class Layout {
 public:
  explicit Layout(void* base) : base_(static_cast<std::byte*>(base)) {}

  template <typename T>
  T* take(std::int64_t count) {
    std::byte* start = base_ == nullptr ? nullptr : base_ + size_;
    // A vector of room past the end: kernels store whole vectors.
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T) + kAlignment;
    size_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(start);
  }

  SoftmaxState take_state(std::int64_t rows, int padded) {
    return {take<float>(rows), take<float>(rows), take<float>(rows * padded)};
  }

  std::size_t size() const { return size_; }

 private:
  std::byte* base_;
  std::size_t size_ = 0;
};

ThreadWorkspace lay_out_thread(Layout& layout, const WorkspaceLimits& limits,
                               const AttentionConfig& config) {
  const int padded = padded_dim(config.head_dim);
  ThreadWorkspace w{};
  w.q_rows = layout.take<const float*>(limits.moba_rows);
  if (config.dtype != DType::kFloat32) {
    w.q_floats = layout.take<float>(limits.moba_rows * padded);
    w.stored_rows = layout.take<const void*>(limits.moba_rows);
  }
  w.out_rows = layout.take<void*>(limits.moba_rows);
  w.total = layout.take_state(limits.moba_rows, padded);
  w.owns = layout.take<std::int32_t>(limits.moba_rows);
  w.choices = layout.take<std::int32_t>(limits.moba_choices);
  w.choice_scores = layout.take<float>(limits.gate_scores);
  w.listed_rows = layout.take<std::int32_t>(limits.moba_choices);
  w.list_starts = layout.take<std::int32_t>(limits.max_blocks + 2);
  w.segment_q = layout.take<const float*>(limits.segment_rows);
  w.limits = layout.take<std::int32_t>(limits.segment_rows);
  w.segment = layout.take_state(limits.segment_rows, padded);
  w.keys = layout.take<float>(std::int64_t{kTileKeys} * config.head_dim);
  w.values = layout.take<float>(std::int64_t{kTileKeys} * padded);
  return w;
}

}  // namespace

WorkspaceLimits workspace_limits(const AttentionConfig& config, int num_threads) {
  const std::int64_t group = config.num_q_heads / config.num_kv_heads;
  const std::int64_t row_bytes = padded_dim(config.head_dim) * std::int64_t{sizeof(float)};
  WorkspaceLimits limits;
  limits.segment_rows = std::max(group, kSegmentStateBytes / row_bytes);

  // One item for every thread from a full batch, unless that is more than a cache holds.
  const std::int64_t tokens_per_thread =
      (std::int64_t{config.max_num_batched_tokens} * config.num_kv_heads + num_threads - 1) /
      num_threads;
  const std::int64_t tokens = std::min<std::int64_t>(
      std::clamp(tokens_per_thread, kMinMobaTileTokens,
                 std::max(kMinMobaTileTokens, kMobaStateBytes / row_bytes / group)),
      config.max_num_batched_tokens);
  limits.moba_rows = std::max(tokens * group, limits.segment_rows);
  limits.moba_choices = std::max(limits.moba_rows * 16, group * kMaxMobaTopk);
  limits.gate_scores = std::max(limits.segment_rows * 64, group * kMaxMobaTopk);
  limits.max_blocks = (config.max_model_len + config.moba_block_size - 1) / config.moba_block_size;

  const std::int64_t partial_bytes =
      std::clamp(num_threads * kPartialBytesPerThread, kMinPartialBytes, kMaxPartialBytes);
  limits.partial_rows = num_threads == 1 ? 0 : partial_bytes / row_bytes;
  return limits;
}

Workspace::Workspace(const AttentionConfig& config, int num_threads)
    : limits_(workspace_limits(config, num_threads)), padded_dim_(padded_dim(config.head_dim)) {
  const auto lay_out = [&](void* base) {
    Layout layout(base);
    threads_.clear();
    for (int i = 0; i < num_threads; ++i) {
      threads_.push_back(lay_out_thread(layout, limits_, config));
    }
    partial_ = layout.take_state(limits_.partial_rows, padded_dim_);
    return layout.size();
  };
  buffer_ = Buffer({}, lay_out(nullptr), "attention workspace");
  lay_out(buffer_.data());
}

SoftmaxState Workspace::partial(std::int64_t first) const {
  return {partial_.max + first, partial_.sum + first, partial_.out + first * padded_dim_};
}

}  // namespace moba::cpu
