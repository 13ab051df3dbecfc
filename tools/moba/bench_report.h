// What the benchmarks of whole checkpoints share: their options, prompts and the head of what they
// print.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "moba/engine.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"

namespace moba::cli {

// Refuses a build without optimisation. Throws CommandError.
void refuse_debug_build();

// A list of numbers of at least 1; empty for "none". Throws UsageError naming the option.
std::vector<std::int64_t> lengths_of(const CLI::Option* option, const std::string& otherwise);

// The middle one, or the mean of the two in the middle; 0 of none.
double median(std::vector<double> values);

// {"p50", "p90", "p99", "max"} of seconds, in milliseconds; null for no values. `seconds` in any
// order.
OrderedJson percentiles_json(std::vector<double> seconds);

// Prompts of fresh random tokens, so that none finds anything of another one in the prefix cache.
class RandomPrompts {
 public:
  RandomPrompts(std::int64_t vocab_size, std::uint64_t seed)
      : random_(seed), token_(0, static_cast<std::int32_t>(vocab_size - 1)) {}

  // A request for that many tokens of output, whatever they are.
  Request request(std::int64_t prompt_tokens, std::int64_t output_tokens);

 private:
  std::mt19937_64 random_;
  std::uniform_int_distribution<std::int32_t> token_;
};

// Program, machine, model and what the engine decided.
OrderedJson environment_json(const Settings& settings, const EngineInfo& info, std::uint64_t seed);
std::string environment_text(const Settings& settings, const EngineInfo& info, std::uint64_t seed);

}  // namespace moba::cli
