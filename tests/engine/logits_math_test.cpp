#include "engine/logits_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_row(std::mt19937& random, std::size_t n, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

TEST_CASE("exponential of non-positive numbers", "[logits_math]") {
  double worst = 0;
  for (int i = 0; i <= 870000; ++i) {
    const float x = -1e-4F * static_cast<float>(i);
    const double exact = std::exp(static_cast<double>(x));
    if (x < -87.0F) continue;
    worst = std::max(worst, std::abs(static_cast<double>(exp_nonpositive(x)) - exact) / exact);
  }
  CHECK(worst < 2e-7);
  CHECK(exp_nonpositive(0.0F) == 1.0F);
  CHECK(exp_nonpositive(-0.0F) == 1.0F);
  CHECK(exp_nonpositive(-88.0F) == 0.0F);
  CHECK(exp_nonpositive(-kInf) == 0.0F);
  CHECK(std::isnan(exp_nonpositive(std::nanf(""))));
}

TEST_CASE("maximum of a row and its first place", "[logits_math]") {
  std::mt19937 random(1);
  for (const std::size_t n : {1, 2, 15, 16, 17, 31, 100, 1000}) {
    for (int round = 0; round < 50; ++round) {
      std::vector<float> row = random_row(random, n, 3);
      for (float& x : row) x = std::round(x);  // ties
      const RowMax max = row_max(row);
      const auto it = std::max_element(row.begin(), row.end());
      CHECK(max.value == *it);
      CHECK(max.index == it - row.begin());
      CHECK_FALSE(max.has_nan);
      row[random() % n] = std::nanf("");
      CHECK(row_max(row).has_nan);
    }
  }
  const std::vector<float> none(20, -kInf);
  CHECK(row_max(none).value == -kInf);
  CHECK(row_max(none).index == 0);
}

TEST_CASE("weights and logsumexp against float64", "[logits_math]") {
  std::mt19937 random(2);
  for (const std::size_t n : {1, 3, 16, 33, 8192, 151936}) {
    for (const float spread : {0.1F, 3.0F, 30.0F, 300.0F}) {
      std::vector<float> row = random_row(random, n, spread);
      if (n > 3) row[1] = -kInf;
      const float max = row_max(row).value;
      for (const float scale : {1.0F, 0.1F, 10.0F, std::numeric_limits<float>::max()}) {
        std::vector<float> weights(n);
        const double sum = exp_weights(row, max, scale, weights);
        double expected_sum = 0;
        for (std::size_t i = 0; i < n; ++i) {
          const float x = (row[i] - max) * scale;
          const double expected = x < -87 ? 0 : std::exp(static_cast<double>(x));
          expected_sum += expected;
          REQUIRE(std::abs(static_cast<double>(weights[i]) - expected) <= 2e-7 * expected);
        }
        CHECK(sum == Approx(expected_sum).epsilon(2e-7));
      }
      double exact = 0;
      for (const float x : row)
        exact += std::exp(static_cast<double>(x) - static_cast<double>(max));
      exact = static_cast<double>(max) + std::log(exact);
      CHECK(std::abs(log_sum_exp(row, max) - exact) < 3e-7);
    }
  }
}

TEST_CASE("the n largest equal a sort", "[logits_math]") {
  std::mt19937 random(3);
  std::vector<std::pair<std::int32_t, float>> top;
  for (const std::size_t n : {1, 2, 63, 64, 65, 200, 5000}) {
    for (const int count : {0, 1, 2, 5, 64, 100, 300, 6000}) {
      for (const bool ties : {false, true}) {
        for (int order = 0; order < 3; ++order) {
          std::vector<float> row = random_row(random, n, 4);
          if (ties) {
            for (float& x : row) x = std::round(x);
          }
          if (order == 1) std::sort(row.begin(), row.end());
          if (order == 2) std::sort(row.rbegin(), row.rend());
          if (n > 10) row[3] = -kInf;
          std::vector<std::pair<std::int32_t, float>> expected;
          for (std::size_t i = 0; i < n; ++i) {
            expected.emplace_back(static_cast<std::int32_t>(i), row[i]);
          }
          std::stable_sort(expected.begin(), expected.end(),
                           [](const auto& a, const auto& b) { return a.second > b.second; });
          expected.resize(std::min<std::size_t>(n, static_cast<std::size_t>(count)));
          top_n(row, count, top);
          REQUIRE(top == expected);
        }
      }
    }
  }
}

}  // namespace
}  // namespace moba
