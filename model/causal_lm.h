// A causal language model as the engine sees it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "attention/attention_backend.h"
#include "device/context.h"
#include "device/tensor.h"
#include "kvcache/kv_pool.h"
#include "kvcache/store_kv.h"
#include "model/model_config.h"
#include "model/shard_plan.h"

namespace moba {

// One step's tokens, all sequences packed one after the other. Borrowed; device memory.
struct ForwardBatch {
  TensorView token_ids;  // [num_tokens] int32
  TensorView positions;  // [num_tokens] int32
  KvWriteSlots slots;    // of the same tokens
  // The positions in host memory, to be held against max_model_len; empty: they have been.
  std::span<const std::int32_t> host_positions;
};

struct ModelOptions {
  DType dtype =
      DType::kFloat32;  // of activations and the cache: float32, bfloat16 or (CUDA) float16
  std::int64_t max_model_len =
      0;  // longest sequence: sizes the RoPE table (and sets the base of dynamic RoPE)
  std::int64_t max_num_batched_tokens = 0;  // sizes the activations
  // Where ranks are several: a batch of so many tokens or more is computed in two parts where
  // attention does not need all at once, so that the sums of one part over the ranks are taken
  // while the other is computed. 0: never. The results are the same.
  std::int64_t min_overlapped_tokens = 0;
};

// Not thread-safe: one per rank, a part of the model each if the context's communicator is of
// several ranks; then all ranks call forward() with the same batch. On the CPU weights are mapped
// from the checkpoint where their dtype allows, and shared with the page cache.
class CausalLM {
 public:
  virtual ~CausalLM() = default;

  // Of the whole model.
  virtual const ModelConfig& config() const = 0;
  // What this rank holds of it.
  virtual const ShardPlan& shard() const = 0;

  // Runs all layers on the batch: writes its keys and values into the cache, attends through
  // `attention`, whose plan() has seen the same batch, and returns the hidden states after the
  // final norm: [num_tokens, hidden_size] in the compute dtype, owned by the model and valid until
  // the next forward, the same on every rank. num_tokens is at most max_num_batched_tokens. On a
  // CUDA device it only issues work, always the same for batches of the same shapes and addresses.
  virtual TensorView forward(const ForwardBatch& batch, KvPool& cache,
                             AttentionBackend& attention) = 0;

  // logits [n, shard().vocab.size()] float32 of hidden states [n, hidden_size] (compute dtype): of
  // this rank's piece of the vocabulary, no other rank takes part.
  virtual void compute_logits(const TensorView& hidden, const TensorView& logits) = 0;

  // Bytes of weights this rank uses: mapped from files, and converted copies in memory of its own.
  virtual std::int64_t weight_bytes() const = 0;
  // Bytes of activations and tables, fixed at construction.
  virtual std::int64_t activation_bytes() const = 0;
};

// Loads the model of a checkpoint directory (config.json as given in `config`). Throws Error naming
// file and tensor: unknown architecture (the line lists the known ones), a tensor missing or of
// another shape or dtype, before big memory is taken.
std::unique_ptr<CausalLM> load_causal_lm(DeviceContext& context, const std::filesystem::path& dir,
                                         const ModelConfig& config, const ModelOptions& options);

}  // namespace moba
