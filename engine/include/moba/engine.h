// The engine: loads a checkpoint and generates from it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moba/config.h"
#include "moba/request.h"
#include "moba/stats.h"
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

// A request that was submitted. Copies stand for the same request, and may outlive the engine.
// Thread-safe. An empty handle (default-constructed) may only be assigned to.
class RequestHandle {
 public:
  RequestHandle() = default;
  std::int64_t id() const;
  // The request ends with the engine's next step at the latest, with what it has so far. No effect
  // on one that has ended.
  void cancel();
  bool done() const;
  // Waits for the end. Never call it on the engine's thread, that is, from a callback.
  const Result<RequestOutput>& wait() const;

 private:
  friend class Engine;
  class State;
  explicit RequestHandle(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// Serves many requests at once, on a thread of its own. Thread-safe: every method may be called
// from several threads. Destroying it ends the requests that are left as cancelled.
class Engine {
 public:
  // Loads the checkpoint and plans all memory. A bad configuration or checkpoint is refused before
  // memory is taken.
  static Result<std::unique_ptr<Engine>> create(const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Checks a request, tokenises its text on the calling thread, and queues it. A request that
  // cannot be served (an empty prompt, one too long for the model or the cache, parameters out of
  // range, a full queue) is refused with the numbers and leaves the engine as it was. The prompt
  // and at least one token of output must fit into max_model_len (the prompt alone if max_tokens is
  // 0); an output that reaches it ends with FinishReason::kLength.
  Result<RequestHandle> submit(Request request, Callbacks callbacks = {});

  // Runs one request to its end: submit() and wait(). A cancelled request is no error: it comes
  // back with what was generated and FinishReason::kCancelled.
  Result<RequestOutput> generate(const Request& request, const Callbacks& callbacks = {});

  const TokenizerHandle& tokenizer() const;
  // generation_config.json's sampling defaults over the library's: a start for a Request.
  SamplingParams default_sampling() const;
  const EngineInfo& info() const;
  // Of the last step's end.
  EngineStats stats() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moba
