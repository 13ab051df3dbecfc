// Which requests a load generator sends, and when.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moba::load {

struct PlanOptions {
  std::int64_t num_requests = 256;
  std::int64_t input_tokens = 1024;
  std::int64_t output_tokens = 128;
  // Lengths are drawn evenly from [(1 - range) * length, (1 + range) * length]; 0 to below 1.
  double range = 0;
  // Requests a second, at random times (a Poisson process); 0: all at once.
  double rate = 0;
  std::uint64_t seed = 1;
  std::string model;  // as the server names it
  bool ignore_eos = true;
  double temperature = 0;
};

struct PlannedRequest {
  double start_seconds = 0;  // from the beginning on; never falls
  std::string body;          // of /v1/completions, streamed, with usage
};

// Prompts of random tokens. The same options, the same plan.
std::vector<PlannedRequest> plan_random(const PlanOptions& options);

// One JSON object a line: {"prompt": text or token ids, "output_tokens": N}, the latter optional.
// From the beginning again if there are too few. Throws std::invalid_argument naming the line.
std::vector<PlannedRequest> plan_from_lines(const std::string& text, const PlanOptions& options);

}  // namespace moba::load
