// The engine: loads a checkpoint and generates from it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moba/config.h"
#include "moba/request.h"
#include "moba/status.h"
#include "moba/tokenizer.h"

namespace moba {

// What the engine decided from configuration, checkpoint and machine.
struct EngineInfo {
  std::string architecture;
  std::string dtype;  // of activations and cache: "float32" or "bfloat16"
  int num_layers = 0;
  std::vector<int> layer_topk;  // [num_layers]: MoBA blocks per query, 0: full attention
  int moba_block_size = 0;
  int block_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_model_len = 0;
  std::int64_t num_pages = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t kv_cache_bytes = 0;
  std::int64_t kv_bytes_per_token = 0;
  std::int64_t workspace_bytes = 0;  // activations, attention and sampling
  int num_threads = 0;
  std::string cpu_isa;  // "avx2", "avx512", "generic"
};

struct EngineStats {
  std::int64_t num_pages_in_use = 0;
  std::int64_t num_steps = 0;
  std::int64_t num_prompt_tokens = 0;
  std::int64_t num_output_tokens = 0;
};

// Thread-safe: calls of generate() from several threads take turns. Movable only through its
// pointer.
class Engine {
 public:
  // Loads the checkpoint and plans all memory. A bad configuration or checkpoint is refused before
  // memory is taken.
  static Result<std::unique_ptr<Engine>> create(const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Runs one request to its end. A request that cannot be served (an empty prompt, one too long for
  // the model or the cache, parameters out of range) is refused with the numbers before any work
  // and leaves the engine as it was. A cancelled request is no error: it comes back with what was
  // generated and FinishReason::kCancelled.
  Result<RequestOutput> generate(const Request& request, const Callbacks& callbacks = {});

  const TokenizerHandle& tokenizer() const;
  // generation_config.json's sampling defaults over the library's: a start for a Request.
  SamplingParams default_sampling() const;
  const EngineInfo& info() const;
  EngineStats stats() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moba
