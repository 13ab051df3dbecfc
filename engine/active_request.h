// A request in flight: what was asked, its sequences, and what has come out so far.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/output_stream.h"
#include "engine/sequence.h"
#include "moba/request.h"
#include "moba/status.h"

namespace moba {

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// One of the n samples of a request.
struct ActiveSample {
  Sequence sequence;
  std::optional<OutputStream> stream;
  SampleOutput output;
  std::optional<Clock::time_point> last_token;
  bool scheduled = false;  // samples after the first join when the prompt has been read
  bool ended = false;
};

// MoBA layers that attend to the same number of blocks.
struct LayerGroup {
  std::int32_t topk = 0;
  std::int32_t num_layers = 0;
};

// Made by EngineCore::prepare() on any thread, then used by the core alone. Does not move: the
// scheduler and the output stream point into it.
struct ActiveRequest {
  explicit ActiveRequest(Request asked) : request(std::move(asked)) {}
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  const Request request;
  Callbacks callbacks;
  // Called once, when the request has left the engine: its output, or why there is none.
  std::function<void(Result<RequestOutput>)> on_finish;

  // Not empty. The first reads the prompt; the others fork from it.
  std::vector<std::unique_ptr<ActiveSample>> samples;
  std::vector<TokenLogprob> prompt_logprobs;

  std::vector<LayerGroup> prefill_groups;  // of the layers' prefill_topk and decode_topk
  std::vector<LayerGroup> decode_groups;
  std::int64_t moba_blocks_attended = 0;
  std::int64_t moba_blocks_available = 0;

  Clock::time_point arrival;
  std::optional<Clock::time_point> deadline;
  std::optional<Clock::time_point> first_step;
  std::optional<Clock::time_point> prompt_done;  // also when the first token's logits are there
  std::optional<Clock::time_point> last_token;

  const Sequence& first() const { return samples.front()->sequence; }
  std::int64_t id() const { return first().request_id; }
};

}  // namespace moba
