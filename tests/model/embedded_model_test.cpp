// The embedded model against the reference outputs that come with it (golden.json; its note and the
// model card say how they were made).

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "model/json_file.h"
#include "tests/catch.h"
#include "tests/model/model_harness.h"

using moba::DType;
using moba::TensorView;
using moba::test::HarnessOptions;
using moba::test::ModelHarness;
using moba::test::random_chunks;
using moba::test::same;

namespace {

const std::filesystem::path kModel =
    std::filesystem::path(MOBA_SOURCE_DIR) / "configs/models/moba-books-19m";
constexpr std::int64_t kCapacity = 2560;  // the longest prompt and its continuation

double logsumexp(const float* logits, std::int64_t n) {
  const double top = *std::max_element(logits, logits + n);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]) - top);
  return top + std::log(sum);
}

int argmax(const std::vector<float>& logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct PromptResult {
  std::vector<float> last_logits;
  double mean_nll = 0;
};

// Runs the prompt in chunks and looks at every position's logits.
PromptResult run_prompt(ModelHarness& harness, const std::vector<std::int32_t>& ids,
                        const std::vector<int>& layer_topk, unsigned seed) {
  harness.start(layer_topk, seed);
  const std::int64_t vocab = harness.config().vocab_size;
  PromptResult result;
  double nll = 0;
  std::size_t done = 0;
  for (const int size : random_chunks(static_cast<std::int64_t>(ids.size()), seed)) {
    const TensorView hidden =
        harness.append(std::span(ids).subspan(done, static_cast<std::size_t>(size)));
    const std::vector<float> logits = harness.logits(hidden);
    for (int row = 0; row < size; ++row, ++done) {
      const float* at = logits.data() + row * vocab;
      if (done + 1 < ids.size()) {
        nll += logsumexp(at, vocab) - static_cast<double>(at[ids[done + 1]]);
      } else {
        result.last_logits.assign(at, at + vocab);
      }
    }
  }
  result.mean_nll = nll / static_cast<double>(ids.size() - 1);
  return result;
}

}  // namespace

TEST_CASE("embedded model: golden outputs in float32", "[long]") {
  const nlohmann::json golden = moba::load_json_object(kModel / "golden.json");
  HarnessOptions options;
  options.capacity = kCapacity;
  options.block_size = 64;
  ModelHarness harness(kModel, options);
  const std::int64_t vocab = harness.config().vocab_size;
  REQUIRE(golden.at("prompts").size() == 2);

  for (const auto& prompt : golden["prompts"]) {
    const auto ids = prompt.at("ids").get<std::vector<std::int32_t>>();
    for (const auto& [mode, expected] : prompt.at("modes").items()) {
      const bool moba = mode == "moba";
      INFO(prompt["name"].get<std::string>() << " " << mode);
      const std::vector<int> topk = moba ? harness.moba_attention() : harness.full_attention();
      const PromptResult result = run_prompt(harness, ids, topk, 3);

      // A near-tied block may be chosen the other way in a long MoBA prompt.
      const double tolerance = moba && ids.size() > 512 ? 2e-2 : 1e-3;
      CHECK(std::abs(logsumexp(result.last_logits.data(), vocab) -
                     expected.at("logsumexp").get<double>()) <= tolerance);
      const auto top_ids = expected.at("top_ids").get<std::vector<int>>();
      const auto top_logits = expected.at("top_logits").get<std::vector<double>>();
      REQUIRE(top_ids.size() == 32);
      double worst = 0;
      for (std::size_t i = 0; i < top_ids.size(); ++i) {
        const double logit = result.last_logits[static_cast<std::size_t>(top_ids[i])];
        worst = std::max(worst, std::abs(logit - top_logits[i]));
      }
      INFO("top-32 logits differ by " << worst << ", mean NLL by "
                                      << result.mean_nll - expected.at("mean_nll").get<double>());
      CHECK(worst <= tolerance);
      CHECK(std::abs(result.mean_nll - expected.at("mean_nll").get<double>()) <= 1e-4);

      const auto greedy = expected.at("greedy_ids").get<std::vector<std::int32_t>>();
      const auto margins = expected.at("greedy_margins").get<std::vector<double>>();
      std::vector<float> logits = result.last_logits;
      for (std::size_t step = 0; step < greedy.size() && margins[step] >= 0.02; ++step) {
        INFO("greedy step " << step);
        REQUIRE(argmax(logits) == greedy[step]);
        logits = harness.logits(harness.append(std::span(greedy).subspan(step, 1)));
      }
    }
  }
}

TEST_CASE("embedded model: chunks, pages and threads do not change a bit", "[long]") {
  const nlohmann::json golden = moba::load_json_object(kModel / "golden.json");
  const auto ids = golden["prompts"].back().at("ids").get<std::vector<std::int32_t>>();
  const std::vector<std::int32_t> prompt(ids.begin(), ids.begin() + 1100);
  const std::vector<int> rows{0, 63, 64, 500, 511, 512, 1023, 1024, 1099};
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    std::vector<float> first;
    for (const auto& [block_size, threads, seed] :
         {std::tuple{64, 2, 0U}, {32, 1, 11U}, {16, 3, 12U}, {64, 2, 13U}}) {
      HarnessOptions options;
      options.dtype = dtype;
      options.capacity = 1100;
      options.block_size = block_size;
      options.num_threads = threads;
      ModelHarness harness(kModel, options);
      const std::vector<int> chunks =
          seed == 0 ? std::vector<int>{}
                    : random_chunks(static_cast<std::int64_t>(prompt.size()), seed);
      const std::vector<float> logits =
          harness.run(prompt, chunks, rows, harness.moba_attention(), seed);
      if (first.empty()) first = logits;
      // Rounding may choose another block where two are nearly tied.
      CHECK(same(logits, first, dtype == DType::kFloat32 ? 2e-2F : 1.0F));
    }
  }
}

// bfloat16 rounds every activation to 8 bits, which on this model moves the mean NLL of the golden
// prompts in the third decimal.
TEST_CASE("embedded model: bfloat16 stays near float32", "[long]") {
  const nlohmann::json golden = moba::load_json_object(kModel / "golden.json");
  HarnessOptions options;
  options.dtype = DType::kBFloat16;
  options.capacity = kCapacity;
  options.block_size = 64;
  ModelHarness harness(kModel, options);
  for (const auto& prompt : golden["prompts"]) {
    const auto ids = prompt.at("ids").get<std::vector<std::int32_t>>();
    for (const auto& [mode, expected] : prompt.at("modes").items()) {
      INFO(prompt["name"].get<std::string>() << " " << mode);
      const PromptResult result = run_prompt(
          harness, ids, mode == "moba" ? harness.moba_attention() : harness.full_attention(), 4);
      const double nll_difference = result.mean_nll - expected.at("mean_nll").get<double>();
      INFO("mean NLL differs by " << nll_difference);
      CHECK(std::abs(nll_difference) <= 0.005);
      CHECK(argmax(result.last_logits) == expected.at("top_ids").at(0).get<int>());
    }
  }
}
