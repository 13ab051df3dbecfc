// The engine: loads a checkpoint and generates from it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moba/config.h"
#include "moba/export.h"
#include "moba/request.h"
#include "moba/stats.h"
#include "moba/status.h"
#include "moba/tokenizer.h"

namespace moba {

// What the engine decided from configuration, checkpoint and machine.
struct EngineInfo {
  std::string architecture;
  std::string dtype;        // of activations and cache: "float32", "bfloat16" or "float16"
  std::string device;       // "cpu", "cuda:0"
  std::string device_name;  // "NVIDIA H100 80GB HBM3"; empty on the CPU
  // CUDA versions, of the driver and of this build: "driver 13.0, runtime 13.0"; empty on the CPU
  std::string device_driver;
  int num_layers = 0;
  std::vector<int> layer_topk;  // [num_layers]: MoBA blocks per query, 0: full attention
  int moba_block_size = 0;
  int block_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_model_len = 0;
  int max_num_batched_tokens = 0;  // as SchedulerOptions, with the device's defaults in place of 0
  int max_num_seqs = 0;
  std::int64_t num_pages = 0;
  int tensor_parallel_size = 1;
  // Of one rank; where ranks differ, of the one that takes most.
  std::int64_t weight_bytes = 0;
  std::int64_t kv_cache_bytes = 0;
  std::int64_t kv_bytes_per_token = 0;
  std::int64_t workspace_bytes = 0;  // activations, attention and sampling
  int num_threads = 0;               // of all ranks
  std::string cpu_isa;               // "avx2", "avx512", "generic"
};

// A request that was submitted. Copies stand for the same request, and may outlive the engine.
// Thread-safe. An empty handle (default-constructed) may only be tested and assigned to.
class MOBA_API RequestHandle {
 public:
  RequestHandle() = default;
  explicit operator bool() const { return state_ != nullptr; }
  // Grows from request to request of an engine.
  std::int64_t id() const;
  // The request ends with the engine's next step at the latest, with what it has so far. No effect
  // on one that has ended.
  void cancel();
  bool done() const;
  // Waits for the end and returns what came of it, which stays while a handle of the request does.
  // All of the request's callbacks have returned by then. From a callback, where the end cannot
  // come: kInvalidArgument.
  const Result<RequestOutput>& wait() const;
  // Waits at most that long; whether the request has ended. From a callback it does not wait.
  bool wait_for(std::chrono::duration<double> timeout) const;

 private:
  friend class Engine;
  class MOBA_LOCAL State;
  explicit RequestHandle(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// A token of a stream (see TokenEvent).
struct StreamedToken {
  std::int32_t token_id = 0;
  std::string text;
  std::optional<TokenLogprob> logprob;
  int sample = 0;
};

// The tokens of a submitted request, kept until they are fetched. Moves; destroying it cancels a
// request that has not ended. Tokens are for one thread at a time, the rest is thread-safe. It may
// outlive the engine.
class MOBA_API TokenStream {
 public:
  TokenStream(TokenStream&& other) noexcept;
  TokenStream& operator=(TokenStream&& other) noexcept;
  ~TokenStream();

  // Waits for the next token, in the order they are generated (of all samples). Nothing: the
  // request has ended, and result() says how. Text that was held back when a request was cancelled
  // is only in its result. Not for callbacks.
  std::optional<StreamedToken> next();
  enum class Next { kToken, kEnd, kTimeout };
  // The same, waiting at most that long; `token` is set for kToken.
  Next next_for(std::chrono::duration<double> timeout, StreamedToken& token);

  const RequestHandle& handle() const { return handle_; }
  void cancel() { handle_.cancel(); }
  // Waits for the end; tokens that were not fetched stay.
  const Result<RequestOutput>& result() const { return handle_.wait(); }

 private:
  friend class Engine;
  class MOBA_LOCAL Queue;
  TokenStream(std::shared_ptr<Queue> queue, RequestHandle handle);
  std::shared_ptr<Queue> queue_;
  RequestHandle handle_;
};

// Serves many requests at once, on a thread of its own. Thread-safe: every method may be called
// from several threads. Destroying it, which no callback may do, ends the requests that are left as
// cancelled and returns when all callbacks have.
class MOBA_API Engine {
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

  // submit() for a caller that would rather fetch the tokens than be called with them.
  Result<TokenStream> stream(Request request);

  // Of a checkpoint without one, a handle that is not available(): only prompts of token ids are
  // taken then, and outputs have no text.
  const TokenizerHandle& tokenizer() const;
  // generation_config.json's sampling defaults over the library's: a start for a Request.
  SamplingParams default_sampling() const;
  const EngineInfo& info() const;
  // Of the last step's end.
  EngineStats stats() const;

 private:
  class MOBA_LOCAL Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What processes other than process 0 of a group do (ParallelOptions::num_processes): builds this
// process's rank with the same configuration and computes with the others until process 0's engine
// is destroyed. An error of any rank ends it.
Status run_rank(const EngineConfig& config);

}  // namespace moba
