// The GPU's sampler against the CPU's, from equal logits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/token_sampler.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

struct Rows {
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<SampleRow> rows;
};

// One sequence for each row, its parameters made by `make(random)`.
template <typename MakeParams>
Rows make_rows(int count, std::int64_t vocab_size, std::mt19937& random, MakeParams&& make) {
  Rows result;
  std::uniform_int_distribution<std::int32_t> token(0, static_cast<std::int32_t>(vocab_size - 1));
  for (int i = 0; i < count; ++i) {
    auto sequence = std::make_unique<Sequence>();
    std::vector<std::int32_t> prompt;
    for (int t = 0; t < 30; ++t) prompt.push_back(token(random));
    const SamplingParams params = make(random);
    sequence->sampling = make_sampling_state(params, vocab_size, std::vector<std::int32_t>{1, 2, 2},
                                             prompt, random());
    for (int t = 0; t < 7; ++t)
      sequence->sampling.add_output_token(prompt[static_cast<std::size_t>(t % 3)]);
    const auto position = static_cast<std::int64_t>(random() % 100000);
    result.rows.push_back({i, sequence.get(), position});
    result.sequences.push_back(std::move(sequence));
  }
  return result;
}

// Logits as a model gives them: a few large, many small.
Tensor model_logits(int rows, std::int64_t vocab_size, std::mt19937& random, float spread = 3) {
  Tensor logits(DType::kFloat32, {rows, vocab_size}, Device{}, "logits");
  std::normal_distribution<float> normal(0, spread);
  float* const data = logits.view().data<float>();
  for (std::int64_t i = 0; i < rows * vocab_size; ++i) data[i] = normal(random);
  return logits;
}

class Samplers {
 public:
  // Rows of logits come in chunks.
  explicit Samplers(std::int64_t vocab_size)
      : cpu_sampler_(create_token_sampler(cpu_, {vocab_size, 17, 64})),
        gpu_sampler_(create_token_sampler(gpu_, {vocab_size, 17, 64})) {}

  // Samples on both and compares tokens, log probabilities and errors.
  void compare(const Tensor& logits, const Rows& rows) {
    const Tensor gpu_logits = on_device(gpu_, logits);
    std::vector<StepResult::Sample> expected;
    std::vector<StepResult::Sample> got;
    slot_ = 1 - slot_;
    const auto source = [](const Tensor& all) {
      return [&all](std::int64_t first, std::int64_t count) {
        return all.view().rows(first, first + count);
      };
    };
    cpu_sampler_->launch(slot_, rows.rows, source(logits));
    gpu_sampler_->launch(slot_, rows.rows, source(gpu_logits));
    cpu_sampler_->collect(slot_, expected);
    gpu_sampler_->collect(slot_, got);
    REQUIRE(got.size() == rows.rows.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      INFO("row " << i << ": " << expected[i].error << " | " << got[i].error);
      REQUIRE(got[i].error.empty() == expected[i].error.empty());
      if (!got[i].error.empty()) {
        REQUIRE(got[i].error.substr(0, 20) == expected[i].error.substr(0, 20));
        continue;
      }
      const SampledToken& g = got[i].token;
      const SampledToken& e = expected[i].token;
      REQUIRE(g.token_id == e.token_id);
      REQUIRE(g.has_logprob == e.has_logprob);
      if (g.has_logprob) compare(g.logprob, e.logprob);
    }
  }

  void compare_scores(const Tensor& logits, const std::vector<std::int32_t>& targets, int num_top) {
    std::vector<TokenLogprob> expected(targets.size());
    std::vector<TokenLogprob> got(targets.size());
    cpu_sampler_->score(0, logits, targets, num_top, expected);
    gpu_sampler_->score(0, on_device(gpu_, logits), targets, num_top, got);
    for (std::size_t i = 0; i < got.size(); ++i) compare(got[i], expected[i]);
  }

  TokenSampler& gpu_sampler() { return *gpu_sampler_; }
  DeviceContext& gpu() { return gpu_; }

 private:
  // Infinities too, which the logarithms of impossible tokens are.
  static bool close(float a, float b) {
    return a == b || std::abs(a - b) <= 1e-5F + 1e-6F * std::abs(b);
  }

  static void compare(const TokenLogprob& got, const TokenLogprob& expected) {
    REQUIRE(got.token_id == expected.token_id);
    REQUIRE(close(got.logprob, expected.logprob));
    REQUIRE(got.top.size() == expected.top.size());
    for (std::size_t i = 0; i < got.top.size(); ++i) {
      REQUIRE(got.top[i].first == expected.top[i].first);
      REQUIRE(close(got.top[i].second, expected.top[i].second));
    }
  }

  int slot_ = 0;
  DeviceContext cpu_{2};
  DeviceContext gpu_{first_gpu(), 1};
  std::unique_ptr<TokenSampler> cpu_sampler_;
  std::unique_ptr<TokenSampler> gpu_sampler_;
};

float pick(std::mt19937& random, const std::vector<float>& values) {
  return values[random() % values.size()];
}

}  // namespace

TEST_CASE("the GPU samples the same tokens as the CPU") {
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (const std::int64_t vocab_size : {7, 100, 4096, 4097, 49152, 128256}) {
    Samplers samplers(vocab_size);
    for (int round = 0; round < 6; ++round) {
      INFO("vocabulary " << vocab_size << " round " << round);
      const int count = 1 + static_cast<int>(random() % 40);
      const Rows rows = make_rows(count, vocab_size, random, [&](std::mt19937& r) {
        SamplingParams p;
        p.temperature = pick(r, {0, 0, 0.1F, 0.7F, 1, 1.5F, 100});
        p.top_k = static_cast<int>(pick(r, {0, 0, 1, 2, 40, 3000}));
        p.top_p = pick(r, {1, 1, 0.9F, 0.5F, 0.99F, 1e-6F});
        p.min_p = pick(r, {0, 0, 0.05F, 0.5F});
        p.repetition_penalty = pick(r, {1, 1, 1.3F, 0.8F});
        p.presence_penalty = pick(r, {0, 0, 0.5F, -1});
        p.frequency_penalty = pick(r, {0, 0, 0.3F});
        if (r() % 3 == 0) p.logit_bias = {{0, 2.5F}, {3, -100.0F}, {6, 4.0F}};
        if (r() % 3 == 0) p.logprobs = static_cast<int>(pick(r, {0, 1, 5, 100}));
        if (r() % 4 == 0) p.min_tokens = 20;
        return p;
      });
      samplers.compare(model_logits(count, vocab_size, random, pick(random, {0.5F, 3, 12})), rows);
    }
  }
}

TEST_CASE("the GPU samples like the CPU where many logits are equal") {
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  Samplers samplers(5000);
  for (const int distinct : {1, 2, 5}) {
    Tensor logits(DType::kFloat32, {20, 5000}, Device{}, "logits");
    float* const data = logits.view().data<float>();
    for (int i = 0; i < 20 * 5000; ++i) {
      data[i] =
          static_cast<float>(static_cast<int>(random() % static_cast<unsigned>(distinct)) - 1);
    }
    const Rows rows = make_rows(20, 5000, random, [](std::mt19937& r) {
      SamplingParams p;
      p.temperature = pick(r, {0, 1, 0.5F});
      p.top_k = static_cast<int>(pick(r, {0, 10, 4999}));
      p.top_p = pick(r, {1, 0.3F, 0.9F});
      p.logprobs = static_cast<int>(pick(r, {0, 7}));
      return p;
    });
    samplers.compare(logits, rows);
  }
}

TEST_CASE("the GPU tells rows without a token apart") {
  std::mt19937 random(3);
  Samplers samplers(1000);
  Tensor logits = model_logits(6, 1000, random);
  float* const data = logits.view().data<float>();
  data[0 * 1000 + 17] = std::numeric_limits<float>::quiet_NaN();
  data[1 * 1000 + 999] = std::numeric_limits<float>::infinity();
  std::fill(data + 2000, data + 3000, -std::numeric_limits<float>::infinity());
  std::fill(data + 3000, data + 3999, -std::numeric_limits<float>::infinity());
  for (const bool logprobs : {false, true}) {
    for (const float temperature : {0.0F, 1.0F}) {
      Rows rows = make_rows(6, 1000, random, [&](std::mt19937&) {
        SamplingParams p;
        p.temperature = temperature;
        return p;
      });
      if (logprobs) {
        rows.sequences[0]->sampling.num_logprobs = 3;
        rows.sequences[3]->sampling.num_logprobs = 2;
        rows.sequences[5]->sampling.num_logprobs = 2;
      }
      samplers.compare(logits, rows);
    }
  }
}

TEST_CASE("the GPU scores prompt tokens like the CPU") {
  std::mt19937 random(std::random_device{}());
  for (const std::int64_t vocab_size : {50, 128256}) {
    Samplers samplers(vocab_size);
    const Tensor logits = model_logits(17, vocab_size, random);
    std::vector<std::int32_t> targets;
    for (int i = 0; i < 17; ++i) {
      targets.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab_size)));
    }
    for (const int num_top : {0, 1, 20, 100}) samplers.compare_scores(logits, targets, num_top);
  }
  Samplers samplers(50);
  Tensor bad = model_logits(2, 50, random);
  bad.view().data<float>()[60] = std::numeric_limits<float>::quiet_NaN();
  std::vector<TokenLogprob> out(2);
  CHECK_THROWS_AS(samplers.gpu_sampler().score(0, on_device(samplers.gpu(), bad),
                                               std::vector<std::int32_t>{0, 1}, 0, out),
                  Error);
}

TEST_CASE("tokens of a launch find their way into the next step") {
  DeviceContext gpu(first_gpu(), 1);
  std::mt19937 random(5);
  const auto sampler = create_token_sampler(gpu, {1000, 8, 8});
  const Tensor logits = on_device(gpu, model_logits(5, 1000, random));
  const Rows rows = make_rows(5, 1000, random, [](std::mt19937&) {
    SamplingParams p;
    p.temperature = 0;
    return p;
  });
  sampler->launch(1, rows.rows, [&](std::int64_t, std::int64_t) { return logits.view(); });
  const auto ints = [&](std::vector<std::int32_t> values) {
    return on_device(
        gpu, TensorView(values.data(), DType::kInt32, {static_cast<std::int64_t>(values.size())}));
  };
  const Tensor sources = ints({4, -1, 0, 0});
  const Tensor tokens = ints({7, 8, 9, 10});
  sampler->resolve(sources, tokens);
  std::vector<StepResult::Sample> samples;
  sampler->collect(1, samples);
  const Tensor got = on_host(gpu, tokens);
  const auto* ids = got.view().data<std::int32_t>();
  CHECK(ids[0] == samples[4].token.token_id);
  CHECK(ids[1] == 8);
  CHECK(ids[2] == samples[0].token.token_id);
  CHECK(ids[3] == samples[0].token.token_id);
}

}  // namespace moba::test
