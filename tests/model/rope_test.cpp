#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "device/context.h"
#include "device/ops.h"
#include "device/tensor.h"
#include "model/json_file.h"
#include "tests/catch.h"
#include "tests/model/temp_files.h"

using moba::DeviceContext;
using moba::DType;
using moba::RopeFrequencies;
using moba::TensorView;
using moba::test::TempDir;

namespace {

// Reads the config of a case as a checkpoint's: so its RoPE keys are tested with it.
moba::ModelConfig config_of(const nlohmann::json& rope_case) {
  const TempDir dir;
  dir.write("config.json", rope_case.at("config").dump());
  return moba::load_model_config(dir.path());
}

}  // namespace

// make_rope_expected.py writes the expected values; both sides compute in float32.
TEST_CASE("rope: frequencies, cosines and sines are those of transformers") {
  const nlohmann::json expected =
      moba::load_json_object(std::string(MOBA_SOURCE_DIR) + "/tests/model/rope_expected.json");
  DeviceContext context(2);
  REQUIRE(expected.at("cases").size() >= 15);
  for (const auto& rope_case : expected["cases"]) {
    INFO(rope_case.at("name").get<std::string>());
    const moba::ModelConfig config = config_of(rope_case);
    const RopeFrequencies frequencies = moba::compute_rope_frequencies(
        config.rope, config.head_dim, rope_case.at("seq_len").get<std::int64_t>());

    // The power function and the blends round differently in the last place or two.
    auto inv_freq = rope_case.at("inv_freq").get<std::vector<float>>();
    REQUIRE(frequencies.inv_freq.size() == inv_freq.size());
    for (std::size_t i = 0; i < inv_freq.size(); ++i) {
      INFO("frequency " << i << ": " << frequencies.inv_freq[i] << " for " << inv_freq[i]);
      CHECK(std::abs(frequencies.inv_freq[i] - inv_freq[i]) <= 4e-7F * inv_freq[i]);
    }
    CHECK(std::abs(frequencies.attention_scaling -
                   rope_case.at("attention_scaling").get<float>()) <= 1e-7F);

    // From the same frequencies the table is the same to rounding, however far the position.
    auto positions = rope_case.at("positions").get<std::vector<std::int32_t>>();
    const auto n = static_cast<std::int64_t>(positions.size());
    const std::size_t half = inv_freq.size();
    std::vector<float> table(positions.size() * 2 * half, std::nanf(""));
    moba::rope_cos_sin(
        context, TensorView(positions.data(), DType::kInt32, {n}),
        TensorView(inv_freq.data(), DType::kFloat32, {static_cast<std::int64_t>(half)}),
        frequencies.attention_scaling,
        TensorView(table.data(), DType::kFloat32, {n, static_cast<std::int64_t>(2 * half)}));
    for (std::size_t p = 0; p < positions.size(); ++p) {
      const auto cos = rope_case["cos"][p].get<std::vector<float>>();
      const auto sin = rope_case["sin"][p].get<std::vector<float>>();
      float worst = 0;
      for (std::size_t i = 0; i < half; ++i) {
        worst = std::max(worst, std::abs(table[p * 2 * half + i] - cos[i]));
        worst = std::max(worst, std::abs(table[p * 2 * half + half + i] - sin[i]));
      }
      INFO("position " << positions[p]);
      CHECK(worst <= 1e-6F);
    }
  }
}

TEST_CASE("rope: a table of many tokens has the rows of its positions") {
  DeviceContext context(3);
  RopeFrequencies frequencies = moba::compute_rope_frequencies({}, 8, 1);
  std::vector<std::int32_t> positions;
  for (int i = 0; i < 333; ++i) positions.push_back((i * 7919) % 100'003);
  std::vector<float> table(positions.size() * 8, std::nanf(""));
  const auto n = static_cast<std::int64_t>(positions.size());
  moba::rope_cos_sin(context, TensorView(positions.data(), DType::kInt32, {n}),
                     TensorView(frequencies.inv_freq.data(), DType::kFloat32, {4}), 1.0F,
                     TensorView(table.data(), DType::kFloat32, {n, 8}));
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::size_t i = 0; i < 4; ++i) {
      const float angle = static_cast<float>(positions[t]) * frequencies.inv_freq[i];
      REQUIRE(table[t * 8 + i] == Approx(std::cos(static_cast<double>(angle))).margin(1e-6));
      REQUIRE(table[t * 8 + 4 + i] == Approx(std::sin(static_cast<double>(angle))).margin(1e-6));
    }
  }
}

TEST_CASE("rope: dynamic scaling depends on the model's maximum length alone") {
  moba::RopeConfig config;
  config.type = moba::RopeType::kDynamic;
  config.factor = 2.0;
  config.original_max_position = 4096;
  const auto plain = moba::compute_rope_frequencies({}, 64, 1).inv_freq;
  CHECK(moba::compute_rope_frequencies(config, 64, 100).inv_freq == plain);
  CHECK(moba::compute_rope_frequencies(config, 64, 4096).inv_freq == plain);
  CHECK(moba::compute_rope_frequencies(config, 64, 8192).inv_freq.back() < plain.back());
  CHECK(moba::compute_rope_frequencies(config, 2, 8192).inv_freq == std::vector<float>{1.0F});
  CHECK_THROWS_AS(moba::compute_rope_frequencies(config, 7, 1), moba::Error);
}
