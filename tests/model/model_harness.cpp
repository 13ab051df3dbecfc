#include "tests/model/model_harness.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "device/check.h"
#include "device/copy.h"
#include "tests/device/device_tensor.h"

namespace moba::test {
namespace {

constexpr int kDefaultMobaBlockSize = 64;
constexpr int kSparePages = 3;  // so that a shuffled table is no permutation of a full pool

int moba_block_size(const HarnessOptions& options, const ModelConfig& config) {
  if (options.moba_block_size) return *options.moba_block_size;
  return config.moba.block_size > 0 ? config.moba.block_size : kDefaultMobaBlockSize;
}

}  // namespace

ModelHarness::ModelHarness(const std::filesystem::path& dir, const HarnessOptions& options,
                           std::unique_ptr<Communicator> group)
    : options_(options),
      config_(load_model_config(dir)),
      context_(options.device, options.num_threads) {
  if (options_.max_num_batched_tokens == 0) {
    options_.max_num_batched_tokens = static_cast<int>(options_.capacity * options_.num_seqs);
  }
  if (options_.max_model_len == 0) options_.max_model_len = options_.capacity;

  if (group != nullptr) context_.set_communicators(nullptr, std::move(group));
  model_ =
      load_causal_lm(context_, dir, config_,
                     {options_.dtype, options_.max_model_len, options_.max_num_batched_tokens});
  const ModelConfig local = model_->shard().local(config_);
  sequences_.resize(static_cast<std::size_t>(options_.num_seqs));
  pages_per_seq_ = (options_.capacity + options_.block_size - 1) / options_.block_size;
  const std::int64_t num_pages = pages_per_seq_ * options_.num_seqs + kSparePages;
  const int moba_size = moba_block_size(options_, config_);
  cache_ = std::make_unique<KvPool>(
      options_.device,
      KvPoolConfig{config_.num_layers, local.num_kv_heads, config_.head_dim, options_.block_size,
                   moba_size, options_.dtype},
      num_pages);
  AttentionConfig attention;
  attention.num_layers = config_.num_layers;
  attention.num_q_heads = local.num_q_heads;
  attention.num_kv_heads = local.num_kv_heads;
  attention.head_dim = config_.head_dim;
  attention.block_size = options_.block_size;
  attention.moba_block_size = moba_size;
  attention.softmax_scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  attention.dtype = options_.dtype;
  attention.max_num_batched_tokens = options_.max_num_batched_tokens;
  attention.max_num_seqs = options_.num_seqs;
  attention.max_model_len = options_.max_model_len;
  attention_ = create_attention_backend(context_, attention);
}

std::vector<int> ModelHarness::full_attention() const {
  return std::vector<int>(static_cast<std::size_t>(config_.num_layers), 0);
}

std::vector<int> ModelHarness::moba_attention(std::optional<int> topk,
                                              std::optional<std::vector<int>> full_layers) const {
  std::vector<int> result = full_attention();
  for (int i = 0; i < config_.num_layers; ++i) {
    const bool full =
        full_layers ? std::find(full_layers->begin(), full_layers->end(), i) != full_layers->end()
                    : config_.layer_kinds[static_cast<std::size_t>(i)] == AttentionKind::kFull;
    if (!full) result[static_cast<std::size_t>(i)] = topk.value_or(config_.moba.topk);
  }
  return result;
}

void ModelHarness::start(std::vector<int> layer_topk, unsigned page_seed, int sequence) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(cache_->num_pages()));
  std::iota(pages.begin(), pages.end(), 0);
  if (page_seed != 0) std::shuffle(pages.begin(), pages.end(), std::mt19937(page_seed));
  const auto first = pages.begin() + static_cast<std::ptrdiff_t>(sequence * pages_per_seq_);
  Sequence& s = sequences_.at(static_cast<std::size_t>(sequence));
  s.block_table.assign(first, first + static_cast<std::ptrdiff_t>(pages_per_seq_));
  s.layer_topk = std::move(layer_topk);
  s.length = 0;
}

TensorView ModelHarness::append(std::span<const std::int32_t> ids) {
  const std::vector<Chunk> chunks{{0, ids}};
  return append(chunks);
}

TensorView ModelHarness::append(std::span<const Chunk> chunks) {
  std::vector<std::int32_t> token_ids;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> cu_seqlens{0};
  std::vector<std::int32_t> seq_lens;
  std::vector<std::int32_t> block_tables;
  std::vector<std::int32_t> topk(static_cast<std::size_t>(config_.num_layers) * chunks.size());
  KvWritePlan plan;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    Sequence& sequence = sequences_.at(static_cast<std::size_t>(chunks[i].sequence));
    const auto count = static_cast<std::int64_t>(chunks[i].ids.size());
    MOBA_CHECK(sequence.length + count <= options_.capacity, "harness: capacity ",
               options_.capacity, " exceeded");
    plan.append(sequence.block_table, sequence.length, count, cache_->config().block_size,
                cache_->config().moba_block_size);
    for (const std::int32_t id : chunks[i].ids) {
      token_ids.push_back(id);
      positions.push_back(static_cast<std::int32_t>(sequence.length++));
    }
    cu_seqlens.push_back(static_cast<std::int32_t>(token_ids.size()));
    seq_lens.push_back(static_cast<std::int32_t>(sequence.length));
    block_tables.insert(block_tables.end(), sequence.block_table.begin(),
                        sequence.block_table.end());
    for (std::size_t layer = 0; layer < sequence.layer_topk.size(); ++layer) {
      topk[layer * chunks.size() + i] = sequence.layer_topk[layer];
    }
  }
  AttentionMetadata metadata;
  metadata.num_seqs = static_cast<int>(chunks.size());
  metadata.cu_seqlens_q = cu_seqlens;
  metadata.seq_lens = seq_lens;
  metadata.block_tables = block_tables;
  metadata.max_blocks_per_seq = static_cast<int>(pages_per_seq_);
  metadata.moba_topk = topk;
  attention_->plan(metadata);

  const auto num_tokens = static_cast<std::int64_t>(token_ids.size());
  const KvWriteSlots slots = slots_of(plan, cache_->layer(0).pages_per_moba_block());
  inputs_ = {on_device(context_, TensorView(token_ids.data(), DType::kInt32, {num_tokens})),
             on_device(context_, TensorView(positions.data(), DType::kInt32, {num_tokens})),
             on_device(context_, slots.slot_mapping), on_device(context_, slots.completed_blocks)};
  return model_->forward({inputs_[0], inputs_[1], {inputs_[2], inputs_[3]}, positions}, *cache_,
                         *attention_);
}

std::vector<float> ModelHarness::logits(const TensorView& hidden) {
  const Shape shape{hidden.dim(0), model_->shard().vocab.size()};
  std::vector<float> result(static_cast<std::size_t>(shape.num_elements()));
  const Tensor logits(DType::kFloat32, shape, context_.device(), "logits");
  model_->compute_logits(hidden, logits);
  copy_to_host(context_, logits, TensorView(result.data(), DType::kFloat32, shape));
  context_.synchronize();
  return result;
}

std::vector<float> ModelHarness::run(std::span<const std::int32_t> ids,
                                     std::span<const int> chunk_sizes, std::span<const int> rows,
                                     std::vector<int> layer_topk, unsigned page_seed) {
  start(std::move(layer_topk), page_seed);
  std::vector<float> result;
  std::size_t done = 0;
  for (std::size_t chunk = 0; done < ids.size(); ++chunk) {
    std::size_t size =
        chunk < chunk_sizes.size() ? static_cast<std::size_t>(chunk_sizes[chunk]) : 0;
    if (size == 0) size = ids.size() - done;
    size = std::min(size, ids.size() - done);
    const TensorView hidden = append(ids.subspan(done, size));
    for (const int row : rows) {
      const std::int64_t local = row - static_cast<std::int64_t>(done);
      if (local < 0 || local >= static_cast<std::int64_t>(size)) continue;
      const std::vector<float> one = logits(hidden.rows(local, local + 1));
      result.insert(result.end(), one.begin(), one.end());
    }
    done += size;
  }
  return result;
}

std::vector<int> random_chunks(std::int64_t length, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> cuts;
  const int num_cuts = static_cast<int>(random() % 6);
  for (int i = 0; i < num_cuts; ++i) {
    cuts.push_back(static_cast<int>(random() % static_cast<unsigned>(length)));
  }
  cuts.push_back(0);
  cuts.push_back(static_cast<int>(length));
  std::sort(cuts.begin(), cuts.end());
  std::vector<int> sizes;
  for (std::size_t i = 1; i < cuts.size(); ++i) {
    if (cuts[i] > cuts[i - 1]) sizes.push_back(cuts[i] - cuts[i - 1]);
  }
  return sizes;
}

}  // namespace moba::test
