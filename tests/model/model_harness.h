// Runs sequences through a model without the engine: cache, attention backend and forward pass.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "attention/attention_backend.h"
#include "kvcache/block_allocator.h"
#include "kvcache/kv_pool.h"
#include "model/causal_lm.h"
#include "tests/model/test_device.h"

namespace moba::test {

struct HarnessOptions {
  DType dtype = DType::kFloat32;
  Device device = test_device();
  int num_threads = 2;
  int block_size = 16;             // tokens per page
  std::int64_t max_model_len = 0;  // 0: enough for `capacity`
  int num_seqs = 1;
  std::int64_t capacity = 512;         // tokens that a sequence may grow to
  int max_num_batched_tokens = 0;      // 0: all sequences at capacity
  std::optional<int> moba_block_size;  // else the checkpoint's, else 64
};

// The next tokens of a sequence.
struct Chunk {
  int sequence = 0;
  std::span<const std::int32_t> ids;
};

class ModelHarness {
 public:
  // A rank of `group`, or the whole model: what is said of heads and vocabulary is then its part.
  ModelHarness(const std::filesystem::path& dir, const HarnessOptions& options,
               std::unique_ptr<Communicator> group = nullptr);

  const ModelConfig& config() const { return config_; }
  CausalLM& model() { return *model_; }

  // Per layer, how many MoBA blocks a query attends to; 0: full attention.
  std::vector<int> full_attention() const;
  // The checkpoint's own, with what is given overridden: `full_layers` are full, all others MoBA.
  std::vector<int> moba_attention(std::optional<int> topk = std::nullopt,
                                  std::optional<std::vector<int>> full_layers = {}) const;

  // Begins a sequence anew. `page_seed` shuffles where the pages of all sequences lie: give all the
  // same, and begin all before the first append().
  void start(std::vector<int> layer_topk, unsigned page_seed = 0, int sequence = 0);
  // Runs the chunks as one batch, in the order given, at most one a sequence. The hidden states
  // [num_tokens, hidden_size] are valid until the next call.
  TensorView append(std::span<const Chunk> chunks);
  // Of sequence 0.
  TensorView append(std::span<const std::int32_t> ids);
  // Logits [rows, vocab_size] of hidden states (of the rank's piece of the vocabulary).
  std::vector<float> logits(const TensorView& hidden);
  // Starts sequence 0 over and runs `ids` in chunks of the given sizes (0 or nothing: the rest at
  // once). Returns the logits of all positions in `rows`, one after the other.
  std::vector<float> run(std::span<const std::int32_t> ids, std::span<const int> chunk_sizes,
                         std::span<const int> rows, std::vector<int> layer_topk,
                         unsigned page_seed = 0);

 private:
  HarnessOptions options_;
  ModelConfig config_;
  DeviceContext context_;
  std::unique_ptr<CausalLM> model_;
  std::unique_ptr<KvPool> cache_;
  std::unique_ptr<AttentionBackend> attention_;
  struct Sequence {
    std::vector<std::int32_t> block_table;
    std::vector<int> layer_topk;
    std::int64_t length = 0;
  };
  std::vector<Sequence> sequences_;
  std::array<Tensor, 4> inputs_;  // of the last batch, on the device
  std::int64_t pages_per_seq_ = 0;
};

// Sizes that cut `length` tokens at random places into 1 to 6 chunks.
std::vector<int> random_chunks(std::int64_t length, unsigned seed);

}  // namespace moba::test
