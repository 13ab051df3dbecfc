#include "model/llama.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "device/check.h"
#include "device/collectives.h"
#include "device/copy.h"
#include "device/gemm.h"
#include "device/ops.h"
#include "kvcache/rope_and_store.h"
#include "model/json_file.h"
#include "model/rope.h"
#include "model/shard_plan.h"
#include "model/weights.h"

namespace moba {
namespace {

// Activations of the MLP are [rows, intermediate_size], the widest of all: it runs on as many rows
// at a time as fit in this, and on no fewer than keep its products efficient. A processor wants
// them to stay in its caches, a GPU wants products large. No result depends on it.
constexpr std::int64_t kCpuMlpBytes = std::int64_t{32} << 20;
constexpr std::int64_t kCudaMlpBytes = std::int64_t{512} << 20;
constexpr std::int64_t kMinMlpRows = 256;

// The first of two parts of a long batch has a multiple of so many tokens, as products like it.
constexpr std::int64_t kPartMultiple = 256;

// Views into the checkpoint or into copies on the device; a bias or norm that the model lacks is
// empty.
//
// Shapes are those of this rank's part: its query and KV heads, its piece of the intermediate size
// and of the vocabulary.
struct LayerWeights {
  TensorView input_norm;       // [hidden]
  TensorView q, q_bias;        // [num_q_heads * head_dim, hidden]
  TensorView k, k_bias;        // [num_kv_heads * head_dim, hidden]
  TensorView v, v_bias;        // [num_kv_heads * head_dim, hidden]
  TensorView q_norm, k_norm;   // [head_dim]
  TensorView o, o_bias;        // [hidden, num_q_heads * head_dim]
  TensorView mlp_norm;         // [hidden]
  TensorView gate, gate_bias;  // [intermediate, hidden]
  TensorView up, up_bias;      // [intermediate, hidden]
  TensorView down, down_bias;  // [hidden, intermediate]
};

struct LlamaWeights {
  TensorView embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  TensorView norm;     // [hidden]
  TensorView lm_head;  // [vocab, hidden]; the embedding if tied
};

// Goes through all tensors that `config` asks for, in the order of the model:
// visit_matrix(view, name, rows, columns, part) and visit_vector(view, name, size, part). What
// reads the hidden states is split by rows, what adds to them by columns, norms not at all.
template <typename VisitMatrix, typename VisitVector>
void for_each_tensor(const ModelConfig& config, const ShardPlan& shard, LlamaWeights& weights,
                     VisitMatrix&& visit_matrix, VisitVector&& visit_vector) {
  using Axis = TensorPart::Axis;
  const auto part = [&](Axis axis, const ShardRange& range, std::int64_t unit) {
    return shard.num_ranks == 1 ? TensorPart{}
                                : TensorPart{axis, range.begin * unit, range.end * unit};
  };
  const TensorPart whole;
  const TensorPart q_rows = part(Axis::kRows, shard.q_heads, config.head_dim);
  const TensorPart kv_rows = part(Axis::kRows, shard.kv_heads, config.head_dim);
  const TensorPart q_columns = part(Axis::kColumns, shard.q_heads, config.head_dim);
  const TensorPart mlp_rows = part(Axis::kRows, shard.intermediate, 1);
  const TensorPart mlp_columns = part(Axis::kColumns, shard.intermediate, 1);
  const TensorPart vocab_rows = part(Axis::kRows, shard.vocab, 1);
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t intermediate = config.intermediate_size;
  const std::int64_t q_size = std::int64_t{config.num_q_heads} * config.head_dim;
  const std::int64_t kv_size = std::int64_t{config.num_kv_heads} * config.head_dim;

  visit_matrix(weights.embedding, "model.embed_tokens.weight", config.vocab_size, hidden,
               vocab_rows);
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    LayerWeights& layer = weights.layers[i];
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    // Matrices that share their input follow one another, and so do their biases: see Weights.
    struct Linear {
      TensorView& matrix;
      TensorView& bias;
      const char* name;
      std::int64_t rows;
      const TensorPart& part;
    };
    const auto linears = [&](std::initializer_list<Linear> group, bool has_bias,
                             std::int64_t columns) {
      for (const Linear& linear : group) {
        visit_matrix(linear.matrix, prefix + linear.name + ".weight", linear.rows, columns,
                     linear.part);
      }
      for (const Linear& linear : group) {
        if (!has_bias) continue;
        const bool by_rows = linear.part.axis == Axis::kRows;
        visit_vector(linear.bias, prefix + linear.name + ".bias", linear.rows,
                     by_rows ? linear.part : whole);
      }
    };
    visit_vector(layer.input_norm, prefix + "input_layernorm.weight", hidden, whole);
    linears({{layer.q, layer.q_bias, "self_attn.q_proj", q_size, q_rows},
             {layer.k, layer.k_bias, "self_attn.k_proj", kv_size, kv_rows},
             {layer.v, layer.v_bias, "self_attn.v_proj", kv_size, kv_rows}},
            config.qkv_bias, hidden);
    if (config.qk_norm) {
      visit_vector(layer.q_norm, prefix + "self_attn.q_norm.weight", config.head_dim, whole);
      visit_vector(layer.k_norm, prefix + "self_attn.k_norm.weight", config.head_dim, whole);
    }
    linears({{layer.o, layer.o_bias, "self_attn.o_proj", hidden, q_columns}}, config.o_bias,
            q_size);
    visit_vector(layer.mlp_norm, prefix + "post_attention_layernorm.weight", hidden, whole);
    linears({{layer.gate, layer.gate_bias, "mlp.gate_proj", intermediate, mlp_rows},
             {layer.up, layer.up_bias, "mlp.up_proj", intermediate, mlp_rows}},
            config.mlp_bias, hidden);
    linears({{layer.down, layer.down_bias, "mlp.down_proj", hidden, mlp_columns}}, config.mlp_bias,
            intermediate);
  }
  visit_vector(weights.norm, "model.norm.weight", hidden, whole);
  if (!config.tie_word_embeddings) {
    visit_matrix(weights.lm_head, "lm_head.weight", config.vocab_size, hidden, vocab_rows);
  }
}

// Checks all tensors before it converts the first.
LlamaWeights load_weights(const ModelConfig& config, const ShardPlan& shard, Weights& from) {
  LlamaWeights weights;
  weights.layers.resize(static_cast<std::size_t>(config.num_layers));
  for_each_tensor(
      config, shard, weights,
      [&](TensorView&, const std::string& name, std::int64_t rows, std::int64_t columns,
          const TensorPart& part) {
        from.check_matrix(name, {rows, columns}, part);
      },
      [&](TensorView&, const std::string& name, std::int64_t size, const TensorPart& part) {
        from.check_vector(name, size, part);
      });
  from.prefetch();
  for_each_tensor(
      config, shard, weights,
      [&](TensorView& view, const std::string& name, std::int64_t rows, std::int64_t columns,
          const TensorPart& part) {
        view = from.matrix(name, {rows, columns}, part);
      },
      [&](TensorView& view, const std::string& name, std::int64_t size, const TensorPart& part) {
        view = from.vector(name, size, part);
      });
  from.finish();
  if (config.tie_word_embeddings) weights.lm_head = weights.embedding;
  return weights;
}

// To the engine's logger, if there is an engine.
void warn_of_unused(const Weights& weights, const std::filesystem::path& dir) {
  const std::vector<std::string> unused = weights.unused();
  const std::shared_ptr<spdlog::logger> logger = spdlog::get("moba");
  if (unused.empty() || logger == nullptr) return;
  logger->warn("{}: {} tensors are not used by this model, the first is {}", dir.string(),
               unused.size(), in_quotes(unused.front()));
}

// Everything forward() writes, allocated once. The attention and the MLP of a layer take turns in
// `scratch`. Where linear() merges products that share their input, their outputs are columns of
// one matrix; elsewhere each is a matrix of its own.
class Activations {
 public:
  Activations(DeviceContext& context, const ModelConfig& config, const ModelOptions& options)
      : max_tokens_(options.max_num_batched_tokens),
        dtype_(options.dtype),
        merged_(merges_tasks(context)),
        intermediate_(config.intermediate_size) {
    const Device device = context.device();
    const std::int64_t hidden = config.hidden_size;
    const auto element = static_cast<std::int64_t>(dtype_size(dtype_));
    const std::int64_t mlp_bytes = merged_ ? kCudaMlpBytes : kCpuMlpBytes;
    q_size_ = std::int64_t{config.num_q_heads} * config.head_dim;
    kv_size_ = std::int64_t{config.num_kv_heads} * config.head_dim;
    mlp_rows_ = std::clamp(mlp_bytes / (2 * intermediate_ * element), kMinMlpRows,
                           std::max(kMinMlpRows, max_tokens_));
    mlp_rows_ = std::min(mlp_rows_, max_tokens_);
    const std::int64_t scratch_elements =
        std::max(max_tokens_ * 2 * (q_size_ + kv_size_), mlp_rows_ * 2 * intermediate_);
    residual_ = Tensor(dtype_, {max_tokens_, hidden}, device, "activations");
    normed_ = Tensor(dtype_, {max_tokens_, hidden}, device, "activations");
    scratch_ = Tensor(dtype_, {scratch_elements}, device, "activations");
    cos_sin_ = Tensor(DType::kFloat32, {max_tokens_, config.head_dim}, device, "activations");
    rows_ = Tensor(DType::kInt32, {max_tokens_}, device, "activations");
    std::vector<std::int32_t> rows(static_cast<std::size_t>(max_tokens_));
    std::iota(rows.begin(), rows.end(), 0);
    copy_to_device(context, TensorView(rows.data(), DType::kInt32, {max_tokens_}), rows_);
    context.synchronize();
  }

  TensorView residual(std::int64_t n) const { return residual_.view().rows(0, n); }
  TensorView normed(std::int64_t n) const { return normed_.view().rows(0, n); }
  TensorView cos_sin(std::int64_t n) const { return cos_sin_.view().rows(0, n); }
  // 0, 1 ... n - 1
  TensorView row_indices(std::int64_t n) const { return rows_.view().rows(0, n); }

  // The projections, then the rotated queries that attention reads, and what it makes of them.
  TensorView q(std::int64_t n) const { return part(n, 0, q_size_, q_size_ + 2 * kv_size_); }
  TensorView k(std::int64_t n) const { return part(n, q_size_, kv_size_, q_size_ + 2 * kv_size_); }
  TensorView v(std::int64_t n) const {
    return part(n, q_size_ + kv_size_, kv_size_, q_size_ + 2 * kv_size_);
  }
  TensorView rotated(std::int64_t n) const {
    return merged_ ? carve(n * (q_size_ + 2 * kv_size_), n, q_size_) : q(n);
  }
  TensorView attended(std::int64_t n) const {
    // Merged projections are dead once queries are rotated and keys and values stored.
    return carve(merged_ ? 0 : n * (q_size_ + 2 * kv_size_), n, q_size_);
  }
  TensorView gate(std::int64_t n) const { return part(n, 0, intermediate_, 2 * intermediate_); }
  TensorView up(std::int64_t n) const {
    return part(n, intermediate_, intermediate_, 2 * intermediate_);
  }

  std::int64_t max_tokens() const { return max_tokens_; }
  std::int64_t mlp_rows() const { return mlp_rows_; }
  std::int64_t num_bytes() const {
    std::size_t total = 0;
    for (const Tensor* t : {&residual_, &normed_, &scratch_, &cos_sin_, &rows_}) {
      total += t->view().num_bytes();
    }
    return static_cast<std::int64_t>(total);
  }

 private:
  TensorView carve(std::int64_t offset, std::int64_t rows, std::int64_t columns) const {
    return scratch_.view().rows(offset, offset + rows * columns).reshape({rows, columns});
  }
  // Output of one of the products that share an input: `columns` from `first` of `all`.
  TensorView part(std::int64_t rows, std::int64_t first, std::int64_t columns,
                  std::int64_t all) const {
    return merged_ ? carve(0, rows, all).columns(first, first + columns)
                   : carve(rows * first, rows, columns);
  }

  std::int64_t max_tokens_;
  DType dtype_;
  bool merged_;
  std::int64_t intermediate_;
  std::int64_t q_size_ = 0;
  std::int64_t kv_size_ = 0;
  std::int64_t mlp_rows_ = 0;  // that the MLP takes at a time
  Tensor residual_;            // [max_tokens, hidden]
  Tensor normed_;              // [max_tokens, hidden]; forward() returns it
  Tensor scratch_;             // projections, rotated and attended; or gate, up
  Tensor cos_sin_;             // [max_tokens, head_dim] float32
  Tensor rows_;                // [max_tokens] int32
};

class Llama final : public CausalLM {
 public:
  Llama(DeviceContext& context, const std::filesystem::path& dir, const ModelConfig& config,
        const ModelOptions& options)
      : context_(context),
        group_(context.communicator()),
        config_(config),
        shard_(make_shard_plan(config, group_.rank(), group_.size())),
        local_(shard_.local(config)),
        options_(options),
        files_(context, dir, options.dtype),
        weights_(load_weights(config, shard_, files_)),
        rope_(compute_rope_frequencies(config.rope, config.head_dim, options.max_model_len)),
        inv_freq_(DType::kFloat32, {static_cast<std::int64_t>(rope_.inv_freq.size())},
                  context.device(), "RoPE frequencies"),
        activations_(context, local_, options) {
    copy_to_device(context,
                   TensorView(rope_.inv_freq.data(), DType::kFloat32, inv_freq_.view().shape()),
                   inv_freq_);
    context.synchronize();
    warn_of_unused(files_, dir);
  }

  const ModelConfig& config() const override { return config_; }
  const ShardPlan& shard() const override { return shard_; }

  TensorView forward(const ForwardBatch& batch, KvPool& cache,
                     AttentionBackend& attention) override;

  void compute_logits(const TensorView& hidden, const TensorView& logits) override {
    const std::array<LinearTask, 1> task{{{weights_.lm_head, {}, logits}}};
    linear(context_, hidden, task);
  }

  std::int64_t weight_bytes() const override {
    return files_.mapped_bytes() + files_.owned_bytes();
  }
  std::int64_t activation_bytes() const override { return activations_.num_bytes(); }

 private:
  TensorView added_once(const TensorView& bias) const {
    return shard_.adds_once() ? bias : TensorView();
  }
  // Tokens [begin, end) of the batch; the lane that their sums take.
  struct Part {
    std::int64_t begin;
    std::int64_t end;
    int lane;
  };
  std::vector<Part> split(std::int64_t num_tokens) const;
  // The part's rows of the residual become their sums over the ranks, and those of `normed` the
  // norm of that: they are when finish() has returned.
  void sum_and_norm(const Part& part, std::int64_t num_tokens, const TensorView& weight);
  void finish(const Part& part, std::int64_t num_tokens, const TensorView& weight);

  void check(const ForwardBatch& batch, const KvPool& cache) const;
  void attend(int index, const ForwardBatch& batch, KvPool& cache, AttentionBackend& attention);
  void apply_mlp(const LayerWeights& layer, std::int64_t num_tokens, const Part& part,
                 const TensorView& next_norm);

  DeviceContext& context_;
  Communicator& group_;
  ModelConfig config_;  // of the whole model
  ShardPlan shard_;
  ModelConfig local_;  // of this rank's part
  ModelOptions options_;
  Weights files_;
  LlamaWeights weights_;
  RopeFrequencies rope_;
  Tensor inv_freq_;  // rope_'s
  Activations activations_;
  std::vector<Part> parts_;  // of the batch
};

std::vector<Llama::Part> Llama::split(std::int64_t num_tokens) const {
  const std::int64_t least = options_.min_overlapped_tokens;
  const bool overlaps =
      group_.size() > 1 && least > 0 && num_tokens >= std::max<std::int64_t>(least, 2);
  if (!overlaps) return {{0, num_tokens, 0}};
  const std::int64_t half = num_tokens / 2;
  const std::int64_t middle = half < kPartMultiple ? half : half / kPartMultiple * kPartMultiple;
  return {{0, middle, 0}, {middle, num_tokens, 1}};
}

void Llama::sum_and_norm(const Part& part, std::int64_t num_tokens, const TensorView& weight) {
  const TensorView rows = activations_.residual(num_tokens).rows(part.begin, part.end);
  if (parts_.size() > 1) return group_.start_all_reduce(rows, part.lane);
  const TensorView normed = activations_.normed(num_tokens);
  if (group_.try_all_reduce_norm(rows, weight, config_.rms_norm_eps, normed)) return;
  group_.all_reduce(rows);
  rms_norm(context_, rows, weight, config_.rms_norm_eps, normed);
}

void Llama::finish(const Part& part, std::int64_t num_tokens, const TensorView& weight) {
  if (parts_.size() == 1) return;
  group_.finish_all_reduce(part.lane);
  rms_norm(context_, activations_.residual(num_tokens).rows(part.begin, part.end), weight,
           config_.rms_norm_eps, activations_.normed(num_tokens).rows(part.begin, part.end));
}

void Llama::check(const ForwardBatch& batch, const KvPool& cache) const {
  const std::int64_t num_tokens = batch.token_ids.dim(0);
  MOBA_CHECK(batch.positions.shape() == batch.token_ids.shape() &&
                 batch.slots.slot_mapping.shape() == batch.token_ids.shape(),
             "forward: positions ", batch.positions.shape().to_string(), " and slots ",
             batch.slots.slot_mapping.shape().to_string(), " for tokens ",
             batch.token_ids.shape().to_string());
  MOBA_CHECK(num_tokens >= 1 && num_tokens <= activations_.max_tokens(), "forward: ", num_tokens,
             " tokens, must be from 1 to max_num_batched_tokens ", activations_.max_tokens());
  for (const std::int32_t position : batch.host_positions) {
    MOBA_CHECK(position >= 0 && position < options_.max_model_len, "forward: position ", position,
               " is not below max_model_len ", options_.max_model_len);
  }
  const KvPoolConfig& pool = cache.config();
  MOBA_CHECK(pool.num_layers == config_.num_layers && pool.num_kv_heads == local_.num_kv_heads &&
                 pool.head_dim == config_.head_dim && pool.dtype == options_.dtype,
             "forward: a KV cache of ", pool.num_layers, " layers, ", pool.num_kv_heads,
             " heads of ", pool.head_dim, " in ", dtype_name(pool.dtype), " for a model of ",
             config_.num_layers, " layers, ", local_.num_kv_heads, " heads of ", config_.head_dim,
             " in ", dtype_name(options_.dtype));
}

TensorView Llama::forward(const ForwardBatch& batch, KvPool& cache, AttentionBackend& attention) {
  check(batch, cache);
  const std::int64_t num_tokens = batch.token_ids.dim(0);
  const TensorView residual = activations_.residual(num_tokens);

  // A table for a batch instead of all positions: at 128K positions a table of all would take as
  // much memory as a small model.
  rope_cos_sin(context_, batch.positions, inv_freq_, rope_.attention_scaling,
               activations_.cos_sin(num_tokens));
  if (group_.size() == 1) {
    embedding(context_, weights_.embedding, batch.token_ids, residual);
  } else {
    embedding_slice(context_, weights_.embedding, shard_.vocab.begin, config_.vocab_size,
                    batch.token_ids, residual);
  }
  parts_ = split(num_tokens);
  const auto& layers = weights_.layers;
  for (const Part& part : parts_) sum_and_norm(part, num_tokens, layers.front().input_norm);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const TensorView& next = i + 1 < layers.size() ? layers[i + 1].input_norm : weights_.norm;
    attend(static_cast<int>(i), batch, cache, attention);
    for (const Part& part : parts_) apply_mlp(layers[i], num_tokens, part, next);
  }
  for (const Part& part : parts_) finish(part, num_tokens, weights_.norm);
  return activations_.normed(num_tokens);
}

// residual += attention(normed). Each rank adds its heads' part; the one that adds it to the
// residual makes their sum the new residual.
void Llama::attend(int index, const ForwardBatch& batch, KvPool& cache,
                   AttentionBackend& attention) {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const std::int64_t n = batch.token_ids.dim(0);
  const TensorView q = activations_.q(n);
  const TensorView k = activations_.k(n);
  const TensorView v = activations_.v(n);
  const TensorView residual = activations_.residual(n);
  for (const Part& part : parts_) {
    const auto of_part = [&](const TensorView& x) { return x.rows(part.begin, part.end); };
    finish(part, n, layer.input_norm);
    const std::array<LinearTask, 3> projections{{
        {layer.q, layer.q_bias, of_part(q)},
        {layer.k, layer.k_bias, of_part(k)},
        {layer.v, layer.v_bias, of_part(v)},
    }};
    linear(context_, of_part(activations_.normed(n)), projections);
  }

  const Shape q_heads{n, local_.num_q_heads, config_.head_dim};
  const Shape kv_heads{n, local_.num_kv_heads, config_.head_dim};
  ProjectedHeads heads;
  heads.q = q.reshape(q_heads);
  heads.k = k.reshape(kv_heads);
  heads.v = v.reshape(kv_heads);
  heads.q_norm = layer.q_norm;
  heads.k_norm = layer.k_norm;
  heads.norm_eps = config_.rms_norm_eps;
  // The table holds the batch's tokens, not positions: row t is token t's.
  heads.positions = activations_.row_indices(n);
  heads.cos_sin = activations_.cos_sin(n);

  const PagedKvView& layer_cache = cache.layer(index);
  const TensorView rotated = activations_.rotated(n).reshape(q_heads);
  rope_and_store(context_, heads, batch.slots, layer_cache, rotated);
  const TensorView attended = activations_.attended(n);
  attention.run(index, rotated, layer_cache, attended.reshape(q_heads));

  for (const Part& part : parts_) {
    const TensorView sum = residual.rows(part.begin, part.end);
    const std::array<LinearTask, 1> output{{
        {layer.o, added_once(layer.o_bias), sum, shard_.adds_once()},
    }};
    linear(context_, attended.rows(part.begin, part.end), output);
    sum_and_norm(part, n, layer.mlp_norm);
  }
}

// residual += down(silu(gate(normed)) * up(normed)) for the part's tokens, each rank its part of
// the intermediate size; then their norm for what comes next.
void Llama::apply_mlp(const LayerWeights& layer, std::int64_t num_tokens, const Part& part,
                      const TensorView& next_norm) {
  const TensorView residual = activations_.residual(num_tokens);
  const TensorView normed = activations_.normed(num_tokens);
  finish(part, num_tokens, layer.mlp_norm);
  for (std::int64_t first = part.begin; first < part.end; first += activations_.mlp_rows()) {
    const std::int64_t last = std::min(part.end, first + activations_.mlp_rows());
    const TensorView gate = activations_.gate(last - first);
    const TensorView up = activations_.up(last - first);
    const std::array<LinearTask, 2> inputs{{
        {layer.gate, layer.gate_bias, gate},
        {layer.up, layer.up_bias, up},
    }};
    linear(context_, normed.rows(first, last), inputs);
    silu_mul(context_, gate, up, gate);
    const std::array<LinearTask, 1> output{{
        {layer.down, added_once(layer.down_bias), residual.rows(first, last), shard_.adds_once()},
    }};
    linear(context_, gate, output);
  }
  sum_and_norm(part, num_tokens, next_norm);
}

}  // namespace

std::unique_ptr<CausalLM> load_llama(DeviceContext& context, const std::filesystem::path& dir,
                                     const ModelConfig& config, const ModelOptions& options) {
  MOBA_CHECK(options.max_model_len >= 1 && options.max_num_batched_tokens >= 1,
             "model: max_model_len ", options.max_model_len, " and max_num_batched_tokens ",
             options.max_num_batched_tokens, " must be at least 1");
  MOBA_CHECK(!config.sliding_window || options.max_model_len <= *config.sliding_window,
             (dir / "config.json").string(), ": sliding_window ", *config.sliding_window,
             ": the engine has full attention only, which is the same up to that length; "
             "max_model_len ",
             options.max_model_len, " is above it");
  return std::make_unique<Llama>(context, dir, config, options);
}

}  // namespace moba
