#include "attention/cpu/cpu_attention_backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention/attention_check.h"

namespace moba::cpu {
namespace {

constexpr int kMaxHeadDim = 256;

// Plain loops, a query head of a token at a time.
class PlainAttentionBackend : public AttentionBackend {
 public:
  PlainAttentionBackend(DeviceContext& context, const AttentionConfig& config)
      : context_(context), config_(config) {
    const std::int64_t blocks = config.max_model_len / config.moba_block_size + 1;
    selections_.resize(static_cast<std::size_t>(context.pool().num_threads()));
    for (Selection& s : selections_) {
      s.scores.resize(static_cast<std::size_t>(blocks));
      s.chosen.resize(static_cast<std::size_t>(blocks));
    }
  }

  void plan(const AttentionMetadata& metadata) override {
    max_page_ = check_metadata(config_, metadata);
    metadata_ = metadata;
    num_tokens_ = metadata.cu_seqlens_q[static_cast<std::size_t>(metadata.num_seqs)];
    sequence_of_.clear();
    for (int s = 0; s < metadata.num_seqs; ++s) {
      const auto i = static_cast<std::size_t>(s);
      sequence_of_.resize(static_cast<std::size_t>(metadata.cu_seqlens_q[i + 1]), s);
    }
  }

  void run(int layer, const TensorView& q, const PagedKvView& cache,
           const TensorView& out) override {
    check_run(config_, layer, num_tokens_, max_page_, q, cache, out);
    for (std::int64_t t = 0; t < num_tokens_; ++t) {
      const int topk = topk_of(layer, sequence_of_[static_cast<std::size_t>(t)]);
      if (topk == 0) continue;
      const std::int64_t own = position_of(t) / config_.moba_block_size;
      stats_.blocks_attended += config_.num_q_heads * std::min<std::int64_t>(topk, own + 1);
      stats_.blocks_available += config_.num_q_heads * (own + 1);
    }
    if (config_.dtype == DType::kBFloat16) {
      run_rows<BFloat16>(layer, q, cache, out);
    } else {
      run_rows<float>(layer, q, cache, out);
    }
  }

  AttentionStats take_stats() override {
    const AttentionStats stats = stats_;
    stats_ = {};
    return stats;
  }

  std::int64_t workspace_bytes() const override {
    return static_cast<std::int64_t>(selections_.size() * selections_[0].scores.size() *
                                     (sizeof(float) + sizeof(bool)));
  }

 private:
  struct Selection {
    std::vector<float> scores;
    std::vector<std::uint8_t> chosen;
  };

  int topk_of(int layer, int sequence) const {
    return metadata_
        .moba_topk[static_cast<std::size_t>(layer) * static_cast<std::size_t>(metadata_.num_seqs) +
                   static_cast<std::size_t>(sequence)];
  }
  std::int64_t position_of(std::int64_t token) const {
    const auto s = static_cast<std::size_t>(sequence_of_[static_cast<std::size_t>(token)]);
    return metadata_.seq_lens[s] - (metadata_.cu_seqlens_q[s + 1] - token);
  }

  template <typename T>
  void run_rows(int layer, const TensorView& q, const PagedKvView& cache, const TensorView& out) {
    const auto body = [&](std::int64_t row, int thread) {
      attend_row<T>(layer, row, q.data<T>() + row * config_.head_dim, cache,
                    out.data<T>() + row * config_.head_dim,
                    selections_[static_cast<std::size_t>(thread)]);
    };
    context_.pool().parallel_for(num_tokens_ * config_.num_q_heads, body);
  }

  template <typename T>
  void attend_row(int layer, std::int64_t row, const T* q, const PagedKvView& cache, T* out,
                  Selection& selection) const {
    const std::int64_t token = row / config_.num_q_heads;
    const int kv_head =
        static_cast<int>(row % config_.num_q_heads) / (config_.num_q_heads / config_.num_kv_heads);
    const int sequence = sequence_of_[static_cast<std::size_t>(token)];
    const std::int64_t position = position_of(token);
    const std::int32_t* pages =
        metadata_.block_tables.data() + std::int64_t{sequence} * metadata_.max_blocks_per_seq;
    const int head_dim = config_.head_dim;
    const auto dot = [&](const T* a) {
      float sum = 0;
      for (int d = 0; d < head_dim; ++d) sum += static_cast<float>(q[d]) * static_cast<float>(a[d]);
      return sum;
    };

    const int topk = topk_of(layer, sequence);
    const std::int64_t own = position / config_.moba_block_size;
    if (topk > 0 && own >= topk) {
      const int pages_per_block = cache.pages_per_moba_block();
      for (std::int64_t i = 0; i < own; ++i) {
        const std::int64_t page = pages[(i + 1) * pages_per_block - 1];
        selection.scores[static_cast<std::size_t>(i)] =
            dot(static_cast<const T*>(cache.centroids) +
                (page * cache.num_kv_heads + kv_head) * head_dim);
        selection.chosen[static_cast<std::size_t>(i)] = 0;
      }
      for (int n = 0; n < topk - 1; ++n) {
        std::int64_t best = -1;
        for (std::int64_t i = 0; i < own; ++i) {
          const auto at = static_cast<std::size_t>(i);
          if (selection.chosen[at] != 0) continue;
          if (best < 0 ||
              selection.scores[at] >= selection.scores[static_cast<std::size_t>(best)]) {
            best = i;
          }
        }
        selection.chosen[static_cast<std::size_t>(best)] = 1;
      }
    }

    std::array<float, kMaxHeadDim> sum{};
    float largest = -std::numeric_limits<float>::infinity();
    float total = 0;
    for (std::int64_t j = 0; j <= position; ++j) {
      const std::int64_t block = j / config_.moba_block_size;
      if (topk > 0 && own >= topk && block < own &&
          selection.chosen[static_cast<std::size_t>(block)] == 0) {
        continue;
      }
      const std::int64_t at = pages[j / cache.block_size] * cache.page_stride() +
                              kv_head * cache.head_stride() + j % cache.block_size * head_dim;
      const float score = dot(static_cast<const T*>(cache.k) + at) * config_.softmax_scale;
      if (score > largest) {
        const float rescale = std::exp(largest - score);
        largest = score;
        total *= rescale;
        for (int d = 0; d < head_dim; ++d) sum[static_cast<std::size_t>(d)] *= rescale;
      }
      const float weight = std::exp(score - largest);
      total += weight;
      const T* value = static_cast<const T*>(cache.v) + at;
      for (int d = 0; d < head_dim; ++d) {
        sum[static_cast<std::size_t>(d)] += weight * static_cast<float>(value[d]);
      }
    }
    for (int d = 0; d < head_dim; ++d) {
      out[d] = static_cast<T>(sum[static_cast<std::size_t>(d)] / total);
    }
  }

  DeviceContext& context_;
  AttentionConfig config_;
  AttentionMetadata metadata_;
  std::int32_t max_page_ = -1;
  std::int64_t num_tokens_ = 0;
  std::vector<int> sequence_of_;
  std::vector<Selection> selections_;
  AttentionStats stats_;
};

}  // namespace

std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config) {
  return std::make_unique<PlainAttentionBackend>(context, config);
}

}  // namespace moba::cpu
