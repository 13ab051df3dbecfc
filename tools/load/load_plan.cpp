#include "tools/load/load_plan.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>
#include <stdexcept>

#include "server/openai/api_error.h"
#include "server/openai/json_fields.h"

namespace moba::load {
namespace {

using openai::Json;

// Every tokenizer has these, and the special ones stand below, most often.
constexpr std::int32_t kFirstToken = 16;
constexpr std::int32_t kLastToken = 999;

class Arrivals {
 public:
  explicit Arrivals(const PlanOptions& options) : random_(options.seed + 1), rate_(options.rate) {}

  double next() {
    if (rate_ > 0) now_ += std::exponential_distribution<double>(rate_)(random_);
    return now_;
  }

 private:
  std::mt19937_64 random_;
  double rate_;
  double now_ = 0;
};

std::string body_of(const PlanOptions& options, Json prompt, std::int64_t output_tokens) {
  return Json{{"model", options.model},
              {"prompt", std::move(prompt)},
              {"max_tokens", output_tokens},
              {"temperature", options.temperature},
              {"ignore_eos", options.ignore_eos},
              {"stream", true},
              {"stream_options", {{"include_usage", true}}}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::int64_t draw_length(std::mt19937_64& random, std::int64_t length, double range) {
  const double spread = static_cast<double>(length) * range;
  const auto least = static_cast<std::int64_t>(std::ceil(static_cast<double>(length) - spread));
  const auto most = static_cast<std::int64_t>(std::floor(static_cast<double>(length) + spread));
  return std::uniform_int_distribution<std::int64_t>(std::max<std::int64_t>(1, least),
                                                     most)(random);
}

}  // namespace

std::vector<PlannedRequest> plan_random(const PlanOptions& options) {
  std::mt19937_64 random(options.seed);
  std::uniform_int_distribution<std::int32_t> token(kFirstToken, kLastToken);
  Arrivals arrivals(options);
  std::vector<PlannedRequest> plan;
  for (std::int64_t i = 0; i < options.num_requests; ++i) {
    const std::int64_t input = draw_length(random, options.input_tokens, options.range);
    const std::int64_t output = draw_length(random, options.output_tokens, options.range);
    std::vector<std::int32_t> prompt(static_cast<std::size_t>(input));
    for (std::int32_t& id : prompt) id = token(random);
    plan.push_back({arrivals.next(), body_of(options, prompt, output)});
  }
  return plan;
}

std::vector<PlannedRequest> plan_from_lines(const std::string& text, const PlanOptions& options) {
  std::vector<std::pair<Json, std::int64_t>> lines;
  std::istringstream stream(text);
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      const Json json = openai::parse_object(line);
      openai::Fields fields(json);
      const Json* prompt = fields.find("prompt");
      if (prompt == nullptr) openai::refuse("prompt", "prompt is missing");
      if (!prompt->is_string()) openai::to_token_ids(*prompt, "prompt");
      lines.emplace_back(
          *prompt, fields.integer("output_tokens", 1, 1 << 30).value_or(options.output_tokens));
    } catch (const openai::ApiError& error) {
      throw std::invalid_argument("line " + std::to_string(number) + ": " + error.what());
    }
  }
  if (lines.empty()) throw std::invalid_argument("no requests");
  Arrivals arrivals(options);
  std::vector<PlannedRequest> plan;
  for (std::int64_t i = 0; i < options.num_requests; ++i) {
    const auto& [prompt, output] = lines[static_cast<std::size_t>(i) % lines.size()];
    plan.push_back({arrivals.next(), body_of(options, prompt, output)});
  }
  return plan;
}

}  // namespace moba::load
