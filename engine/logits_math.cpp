#include "engine/logits_math.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

namespace moba {
namespace {

// Independent accumulators of a pass: enough to fill vector registers of any width in use.
constexpr std::size_t kLanes = 16;
// Elements looked at together where most of a row is skipped.
constexpr std::size_t kBlock = 64;
// Exponentials held at a time where only their sum is wanted.
constexpr std::size_t kSumBlock = 1024;

// e^x for x <= 0; NaN gives 0. The range is tested on the bits: a comparison of floats might trap,
// which keeps the compiler from turning it into a choice and vectorising.
inline float exp_core(float x) {
  // Cody and Waite: e^x = 2^n e^r, |r| <= ln(2)/2; polynomial of Cephes' expf.
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr auto kLeast = std::bit_cast<std::int32_t>(-87.0F);
  // With the sign set, a float of larger magnitude is a larger integer.
  const std::int32_t bits =
      std::bit_cast<std::int32_t>(x) | std::numeric_limits<std::int32_t>::min();
  const std::int32_t too_small = -static_cast<std::int32_t>(bits > kLeast);
  const auto clamped = std::bit_cast<float>((bits & ~too_small) | (kLeast & too_small));
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  // The low bits of the shifted number are n: into the exponent.
  const std::int32_t exponent =
      (std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound) + 127) *
      (1 << 23);
  const float value = p * std::bit_cast<float>(exponent);
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(value) & ~too_small);
}

void exp_block(const float* row, std::size_t n, float max, float scale, float* weights) {
  for (std::size_t i = 0; i < n; ++i) weights[i] = exp_core((row[i] - max) * scale);
}

double sum_block(const float* values, std::size_t n) {
  std::array<double, kLanes> sums{};
  const std::size_t whole = n / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += static_cast<double>(values[i + lane]);
    }
  }
  double sum = 0;
  for (const double lane : sums) sum += lane;
  for (std::size_t i = whole; i < n; ++i) sum += static_cast<double>(values[i]);
  return sum;
}

bool before(const std::pair<std::int32_t, float>& a, const std::pair<std::int32_t, float>& b) {
  return a.second > b.second || (a.second == b.second && a.first < b.first);
}

}  // namespace

float exp_nonpositive(float x) { return std::isnan(x) ? x : exp_core(x); }

RowMax row_max(std::span<const float> row) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  std::array<float, kLanes> best;
  best.fill(kLowest);
  std::array<std::uint32_t, kLanes> nan{};
  const std::size_t whole = row.size() / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float x = row[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      nan[lane] |= x != x ? 1U : 0U;
    }
  }
  RowMax result;
  result.value = kLowest;
  std::uint32_t any_nan = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    result.value = std::max(result.value, best[lane]);
    any_nan |= nan[lane];
  }
  for (std::size_t i = whole; i < row.size(); ++i) {
    result.value = std::max(result.value, row[i]);
    any_nan |= row[i] != row[i] ? 1U : 0U;
  }
  result.has_nan = any_nan != 0;
  const auto it = std::find(row.begin(), row.end(), result.value);
  result.index = it == row.end() ? 0 : static_cast<std::int32_t>(it - row.begin());
  return result;
}

double exp_weights(std::span<const float> row, float max, float scale, std::span<float> weights) {
  exp_block(row.data(), row.size(), max, scale, weights.data());
  return sum_block(weights.data(), row.size());
}

double log_sum_exp(std::span<const float> row, float max) {
  std::array<float, kSumBlock> weights;
  double sum = 0;
  for (std::size_t i = 0; i < row.size(); i += kSumBlock) {
    const std::size_t n = std::min(kSumBlock, row.size() - i);
    exp_block(row.data() + i, n, max, 1.0F, weights.data());
    sum += sum_block(weights.data(), n);
  }
  return static_cast<double>(max) + std::log(sum);
}

void top_n(std::span<const float> row, int n, std::vector<std::pair<std::int32_t, float>>& top) {
  top.clear();
  if (n <= 0) return;
  // Values above the threshold are gathered; when the buffer is full, all but the n best go and the
  // threshold rises to the worst of those. Later elements of equal value rank behind, so they need
  // not pass it.
  const auto keep = static_cast<std::size_t>(n);
  const std::size_t capacity = std::max<std::size_t>(2 * keep, 256);
  top.reserve(capacity + kBlock);
  float threshold = -std::numeric_limits<float>::infinity();
  bool has_threshold = false;
  const auto shrink = [&] {
    std::nth_element(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(keep) - 1, top.end(),
                     before);
    top.resize(keep);
    threshold = top[keep - 1].second;
    has_threshold = true;
  };
  for (std::size_t begin = 0; begin < row.size(); begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, row.size());
    if (has_threshold) {
      std::uint32_t any = 0;
      for (std::size_t i = begin; i < end; ++i) any |= row[i] > threshold ? 1U : 0U;
      if (any == 0) continue;
    }
    for (std::size_t i = begin; i < end; ++i) {
      if (has_threshold ? row[i] > threshold : row[i] == row[i]) {
        top.emplace_back(static_cast<std::int32_t>(i), row[i]);
      }
    }
    if (top.size() >= capacity) shrink();
  }
  if (top.size() > keep) shrink();
  std::sort(top.begin(), top.end(), before);
}

void sort_by_logit(std::vector<std::pair<std::int32_t, float>>& entries, int n) {
  std::sort(entries.begin(), entries.end(), before);
  if (entries.size() > static_cast<std::size_t>(n)) entries.resize(static_cast<std::size_t>(n));
}

}  // namespace moba
