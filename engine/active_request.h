// A request in flight: what was asked, its sequence, and what has come out so far.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/output_stream.h"
#include "engine/sequence.h"
#include "moba/request.h"
#include "moba/status.h"

namespace moba {

using Clock = std::chrono::steady_clock;

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

  Sequence sequence;
  std::optional<OutputStream> stream;
  RequestOutput output;

  Clock::time_point arrival;
  std::optional<Clock::time_point> deadline;
  std::optional<Clock::time_point> first_step;
  std::optional<Clock::time_point> prompt_done;  // also when the first token's logits are there
  Clock::time_point last_token;
};

}  // namespace moba
