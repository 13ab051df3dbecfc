// Sends a plan's requests to a server and measures their answers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/load/load_plan.h"

namespace moba::load {

struct Target {
  std::string host = "127.0.0.1";
  std::string port = "8000";
  std::string api_key;  // may be empty
};

struct LoadResult {
  std::string error;  // empty: the whole answer came
  double first_token_seconds = 0;
  double last_token_seconds = 0;
  std::vector<float> gaps;  // between tokens that came one after another, in seconds
  std::int64_t num_prompt_tokens = 0;
  std::int64_t num_cached_tokens = 0;
  std::int64_t num_output_tokens = 0;
};

struct LoadOutcome {
  std::vector<LoadResult> results;  // one for each request
  double seconds = 0;               // from the first request to the last answer
};

struct RunOptions {
  std::int64_t concurrency = 0;  // requests under way at once at most; 0: no limit
  // Called about ten times a second; returning false gives up.
  std::function<bool(std::int64_t done)> on_progress;
};

// Open loop: a request is sent at its time, whatever the server does, unless `concurrency` are
// under way; then as soon as one has ended. Each has a connection of its own. One thread.
LoadOutcome run_load(const Target& target, const std::vector<PlannedRequest>& plan,
                     const RunOptions& options);

// The body of GET `path`. Throws std::runtime_error with one line.
std::string fetch(const Target& target, const std::string& path);

}  // namespace moba::load
