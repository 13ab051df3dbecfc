#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "engine/philox.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_row(std::uint32_t seed, std::size_t n, float spread = 2) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

SamplingState make_state(const SamplingParams& params, std::size_t vocab,
                         const std::vector<std::int32_t>& prompt = {},
                         const std::vector<std::int32_t>& eos = {}) {
  validate(params, static_cast<std::int64_t>(vocab));
  return make_sampling_state(params, static_cast<std::int64_t>(vocab), eos, prompt, 1234);
}

std::int32_t sample_one(const std::vector<float>& row, const SamplingState& state,
                        std::int64_t position = 0) {
  Sampler sampler;
  std::vector<float> logits = row;
  return sampler.sample(logits, state, position).token_id;
}

// The distribution that sampling_params.h documents, in float64, the plain way: a full sort.
std::map<std::int32_t, double> reference(const std::vector<float>& logits,
                                         const SamplingParams& params) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<std::size_t>(params.top_k));
  }
  const auto logit = [&](std::int32_t id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]);
  };
  std::vector<double> p;
  for (const std::int32_t id : order) {
    p.push_back(std::exp((logit(id) - logit(order[0])) / static_cast<double>(params.temperature)));
  }
  double sum = std::accumulate(p.begin(), p.end(), 0.0);
  if (params.top_p < 1) {
    double reached = 0;
    std::size_t n = 0;
    while (n < p.size() && reached < static_cast<double>(params.top_p) * sum) reached += p[n++];
    p.resize(n);
    order.resize(n);
  }
  while (!p.empty() && p.back() < static_cast<double>(params.min_p)) {
    p.pop_back();
    order.pop_back();
  }
  sum = std::accumulate(p.begin(), p.end(), 0.0);
  std::map<std::int32_t, double> result;
  for (std::size_t i = 0; i < p.size(); ++i) result[order[i]] = p[i] / sum;
  return result;
}

// Chi-square of draws against the reference; rare tokens are pooled. The limit is far in the tail
// (5 sigma of the statistic), and the draws are the same on every run.
void check_distribution(const std::vector<float>& logits, const SamplingParams& params,
                        int draws = 20000) {
  const auto expected = reference(logits, params);
  const SamplingState state = make_state(params, logits.size());
  Sampler sampler;
  std::map<std::int32_t, int> count;
  std::vector<float> row;
  for (int i = 0; i < draws; ++i) {
    row = logits;
    ++count[sampler.sample(row, state, i).token_id];
  }
  for (const auto& [id, n] : count) {
    INFO("token " << id << " drawn " << n << " times");
    REQUIRE(expected.count(id) == 1);
  }
  double chi2 = 0;
  int cells = 0;
  double rest_expected = 0;
  double rest_count = 0;
  for (const auto& [id, p] : expected) {
    const double e = p * draws;
    const double n = count.count(id) != 0 ? count[id] : 0;
    if (e < 10) {
      rest_expected += e;
      rest_count += n;
      continue;
    }
    chi2 += (n - e) * (n - e) / e;
    ++cells;
  }
  if (rest_expected > 10) {
    chi2 += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++cells;
  }
  const double degrees = cells - 1;
  INFO("chi2 " << chi2 << " of " << degrees << " degrees");
  CHECK(chi2 <= degrees + 5 * std::sqrt(2 * degrees) + 1e-9);
}

TEST_CASE("Philox known answers", "[sampler]") {
  using Block = std::array<std::uint32_t, 4>;
  // Random123's kat_vectors.
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  double mean = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double u = philox_uniform(42, 0, i);
    REQUIRE((u >= 0 && u < 1));
    mean += u / 100000;
  }
  CHECK(std::abs(mean - 0.5) < 5 * 0.2887 / std::sqrt(100000.0));
}

TEST_CASE("greedy takes the largest logit, the smaller id of equals", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 1);
  CHECK(sample_one({3, 1, 3}, make_state(params, 3)) == 0);
  CHECK(sample_one({-kInf, -5, -kInf}, make_state(params, 3)) == 1);
}

TEST_CASE("draws follow the documented distribution", "[sampler]") {
  const std::vector<float> logits = random_row(11, 200);
  SamplingParams params;
  SECTION("plain") { check_distribution(logits, params); }
  SECTION("temperature") {
    params.temperature = GENERATE(0.3F, 2.0F, 50.0F);
    check_distribution(logits, params);
  }
  SECTION("top-k") {
    params.top_k = GENERATE(1, 2, 7, 199, 200, 1000, -1);
    check_distribution(logits, params);
  }
  SECTION("top-p") {
    params.top_p = GENERATE(1e-6F, 0.1F, 0.5F, 0.9F, 0.999F);
    check_distribution(logits, params);
  }
  SECTION("min-p") {
    params.min_p = GENERATE(0.01F, 0.2F, 0.9F, 1.0F);
    check_distribution(logits, params);
  }
  SECTION("together") {
    params.temperature = 1.5F;
    params.top_k = 40;
    params.top_p = 0.8F;
    params.min_p = 0.05F;
    check_distribution(logits, params);
  }
}

TEST_CASE("the set that may be drawn equals the reference on large vocabularies",
          "[sampler][long]") {
  // Draws at u = 0 and u near 1 show the first and the last token of the set; many draws its size.
  for (const std::uint32_t seed : {1U, 2U, 3U}) {
    for (const float spread : {0.01F, 1.0F, 5.0F}) {
      const std::vector<float> logits = random_row(seed, 20000, spread);
      for (const float top_p : {0.3F, 0.95F}) {
        for (const int top_k : {0, 50}) {
          SamplingParams params;
          params.top_p = top_p;
          params.top_k = top_k;
          const auto expected = reference(logits, params);
          const SamplingState state = make_state(params, logits.size());
          Sampler sampler;
          std::vector<float> row;
          for (int i = 0; i < 300; ++i) {
            row = logits;
            REQUIRE(expected.count(sampler.sample(row, state, i).token_id) == 1);
          }
        }
      }
    }
  }
}

TEST_CASE("equal weights: top-k and top-p keep the smaller ids", "[sampler]") {
  const std::vector<float> flat(100, 1.5F);
  SamplingParams params;
  params.top_k = 3;
  check_distribution(flat, params, 3000);
  params = {};
  params.top_p = 0.25F;
  check_distribution(flat, params, 3000);
}

TEST_CASE("extreme temperatures", "[sampler]") {
  SamplingParams params;
  params.temperature = 1e-40F;
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 1);
  params.temperature = 1e30F;
  check_distribution({-10, 0, 10}, params, 3000);
}

TEST_CASE("the same seed and position give the same token, another row's work changes nothing",
          "[sampler]") {
  const std::vector<float> logits = random_row(5, 1000, 1);
  SamplingParams params;
  params.seed = 99;
  params.top_p = 0.9F;
  const SamplingState state = make_state(params, logits.size());
  std::vector<std::int32_t> first;
  for (int i = 0; i < 50; ++i) first.push_back(sample_one(logits, state, i));
  Sampler used;
  const SamplingState other = make_state({}, 3000);
  for (int i = 49; i >= 0; --i) {
    std::vector<float> noise = random_row(static_cast<std::uint32_t>(i), 3000);
    used.sample(noise, other, i);
    std::vector<float> row = logits;
    CHECK(used.sample(row, state, i).token_id == first[static_cast<std::size_t>(i)]);
  }
  CHECK(std::adjacent_find(first.begin(), first.end(), std::not_equal_to<>()) != first.end());
  SamplingState stream = state;
  stream.stream = 1;
  std::vector<std::int32_t> second;
  for (int i = 0; i < 50; ++i) second.push_back(sample_one(logits, stream, i));
  CHECK(second != first);
}

TEST_CASE("logit bias", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{2, 5.0F}, {1, -10.0F}};
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 2);
  params.logit_bias = {{1, -100.0F}};
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 2);
  params.logit_bias = {{1, -kInf}, {2, -kInf}};
  params.repetition_penalty = 1.5F;
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 0);
  params.temperature = 1;
  CHECK(sample_one({1, 3, 2}, make_state(params, 3)) == 0);
}

TEST_CASE("repetition penalty sees prompt and output, divides and multiplies", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 2;
  SamplingState state = make_state(params, 4, {0, 0});
  CHECK(sample_one({4, 2.5F, 1, 0}, state) == 1);  // 4 / 2 < 2.5
  CHECK(sample_one({4, 1.5F, 1, 0}, state) == 0);  // once, though it stands there twice
  state.begin_output_token();
  state.add_output_token(1);
  CHECK(sample_one({4, 3.5F, 1, 0}, state) == 0);         // 2 > 1.75
  CHECK(sample_one({-1, -1.5F, -1.9F, -9}, state) == 2);  // -2, -3, -1.9
}

TEST_CASE("presence and frequency penalties see the output only", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  params.presence_penalty = 1;
  SamplingState state = make_state(params, 3, {0});
  CHECK(sample_one({2, 1.5F, 0}, state) == 0);
  state.begin_output_token();
  state.add_output_token(0);
  state.begin_output_token();
  state.add_output_token(0);
  CHECK(sample_one({2, 1.5F, 0}, state) == 1);
  CHECK(sample_one({2.6F, 1.5F, 0}, state) == 0);  // once, not twice
  params.presence_penalty = 0;
  params.frequency_penalty = 0.5F;
  state = make_state(params, 3, {0});
  state.begin_output_token();
  state.add_output_token(0);
  CHECK(sample_one({2, 1.4F, 0}, state) == 0);
  state.begin_output_token();
  state.add_output_token(0);
  CHECK(sample_one({2, 1.4F, 0}, state) == 1);
  params.frequency_penalty = -2;
  state = make_state(params, 3);
  state.begin_output_token();
  state.add_output_token(2);
  CHECK(sample_one({1, 0, 0}, state) == 2);
}

TEST_CASE("bias comes before penalties", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 4;
  params.logit_bias = {{0, 4.0F}};
  // (-2 + 4) / 4 = 0.5, not -2 * 4 + 4 = -4.
  CHECK(sample_one({-2, 0.4F}, make_state(params, 2, {0})) == 0);
}

TEST_CASE("stop tokens are forbidden before min_tokens", "[sampler]") {
  SamplingParams params;
  params.temperature = 0;
  params.min_tokens = 2;
  params.stop_token_ids = {1};
  SamplingState state = make_state(params, 4, {}, {0, 77});
  CHECK(sample_one({9, 8, 7, 6}, state) == 2);
  state.begin_output_token();
  state.add_output_token(2);
  CHECK(sample_one({9, 8, 7, 6}, state) == 2);
  state.begin_output_token();
  state.add_output_token(2);
  CHECK(sample_one({9, 8, 7, 6}, state) == 0);
  params.ignore_eos = true;
  CHECK(sample_one({9, 8, 7, 6}, make_state(params, 4, {}, {0})) == 0);
}

TEST_CASE("log probabilities are of the unmodified logits", "[sampler]") {
  const std::vector<float> logits = random_row(21, 300);
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const auto exact = [&](std::int32_t id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]) - std::log(sum);
  };
  SamplingParams params;
  params.temperature = 0.5F;
  params.logprobs = 5;
  params.repetition_penalty = 3;
  params.logit_bias = {{7, 50.0F}};
  const SamplingState state = make_state(params, logits.size(), {7, 8, 9});
  Sampler sampler;
  std::vector<float> row = logits;
  const SampledToken token = sampler.sample(row, state, 0);
  CHECK(token.token_id == 7);
  REQUIRE(token.has_logprob);
  CHECK(token.logprob.token_id == 7);
  CHECK(static_cast<double>(token.logprob.logprob) == Approx(exact(7)).margin(2e-6));
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  REQUIRE(token.logprob.top.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(token.logprob.top[i].first == order[i]);
    CHECK(static_cast<double>(token.logprob.top[i].second) == Approx(exact(order[i])).margin(2e-6));
  }
  params.logprobs.reset();
  row = logits;
  CHECK_FALSE(sampler.sample(row, make_state(params, logits.size()), 0).has_logprob);
}

TEST_CASE("rows that cannot be sampled from are refused", "[sampler]") {
  SamplingParams params;
  params.temperature = GENERATE(0.0F, 1.0F);
  const SamplingState state = make_state(params, 3);
  CHECK_THAT(message_of([&] { sample_one({1, kNan, 0}, state); }), Contains("not finite"));
  CHECK_THAT(message_of([&] { sample_one({1, kInf, 0}, state); }), Contains("not finite"));
  CHECK_THAT(message_of([&] {
               sample_one({-kInf, -kInf, -kInf}, state);
             }),
             Contains("no token is allowed"));
}

TEST_CASE("parameters out of range are refused by name", "[sampler]") {
  const auto refused = [](const char* name, const std::function<void(SamplingParams&)>& change) {
    SamplingParams params;
    change(params);
    INFO(name);
    CHECK_THAT(message_of([&] { validate(params, 100); }), Contains(name));
  };
  validate(SamplingParams{}, 100);
  for (const float x : {-0.1F, kNan, kInf}) {
    refused("temperature", [x](SamplingParams& p) { p.temperature = x; });
  }
  refused("top_k is -2", [](SamplingParams& p) { p.top_k = -2; });
  for (const float x : {0.0F, -1.0F, 1.1F, kNan}) {
    refused("top_p", [x](SamplingParams& p) { p.top_p = x; });
  }
  for (const float x : {-0.1F, 1.1F, kNan}) {
    refused("min_p", [x](SamplingParams& p) { p.min_p = x; });
  }
  for (const float x : {0.0F, -1.0F, kInf, kNan}) {
    refused("repetition_penalty", [x](SamplingParams& p) { p.repetition_penalty = x; });
  }
  for (const float x : {-2.1F, 2.1F, kNan}) {
    refused("presence_penalty", [x](SamplingParams& p) { p.presence_penalty = x; });
    refused("frequency_penalty", [x](SamplingParams& p) { p.frequency_penalty = x; });
  }
  refused("logit_bias", [](SamplingParams& p) { p.logit_bias = {{100, 1.0F}}; });
  refused("logit_bias", [](SamplingParams& p) { p.logit_bias = {{-1, 1.0F}}; });
  refused("logit_bias", [](SamplingParams& p) { p.logit_bias = {{1, kNan}}; });
  refused("logit_bias", [](SamplingParams& p) { p.logit_bias = {{1, kInf}}; });
  refused("max_tokens is -1", [](SamplingParams& p) { p.max_tokens = -1; });
  refused("min_tokens is -1", [](SamplingParams& p) { p.min_tokens = -1; });
  refused("min_tokens 5 is more than max_tokens 4", [](SamplingParams& p) {
    p.min_tokens = 5;
    p.max_tokens = 4;
  });
  refused("stop: string 1 is empty", [](SamplingParams& p) { p.stop = {"a", ""}; });
  refused("stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {100}; });
  refused("n is 0", [](SamplingParams& p) { p.n = 0; });
  refused("logprobs is 101", [](SamplingParams& p) { p.logprobs = 101; });
  refused("prompt_logprobs is -1", [](SamplingParams& p) { p.prompt_logprobs = -1; });
}

}  // namespace
}  // namespace moba
