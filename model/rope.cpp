#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "device/check.h"

namespace moba {
namespace {

// float32 base ^ exponent, rounded once.
float power(float base, float exponent) {
  return static_cast<float>(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
}

// theta ^ (2i / head_dim) for i < head_dim / 2.
std::vector<float> position_periods(double theta, int head_dim) {
  std::vector<float> periods;
  for (int i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    periods.push_back(power(static_cast<float>(theta), exponent));
  }
  return periods;
}

std::vector<float> default_inv_freq(double theta, int head_dim) {
  std::vector<float> values = position_periods(theta, head_dim);
  for (float& value : values) value = 1.0F / value;
  return values;
}

// Dynamic NTK scaling: the base grows with the length.
double dynamic_theta(const RopeConfig& config, int head_dim, std::int64_t max_model_len) {
  const auto original = static_cast<double>(config.original_max_position);
  const double length = std::max(static_cast<double>(max_model_len), original);
  const double dim = head_dim;
  return config.theta *
         std::pow(config.factor * length / original - (config.factor - 1.0), dim / (dim - 2.0));
}

// Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended.
void scale_llama3(const RopeConfig& config, std::vector<float>& inv_freq) {
  const auto factor = static_cast<float>(config.factor);
  const auto low = static_cast<float>(config.low_freq_factor);
  const auto original = static_cast<float>(config.original_max_position);
  const auto range = static_cast<float>(config.high_freq_factor - config.low_freq_factor);
  const auto low_wavelength = static_cast<float>(static_cast<double>(config.original_max_position) /
                                                 config.low_freq_factor);
  const auto high_wavelength = static_cast<float>(
      static_cast<double>(config.original_max_position) / config.high_freq_factor);
  constexpr auto kTwoPi = static_cast<float>(2.0 * std::numbers::pi);
  for (float& value : inv_freq) {
    const float wavelength = kTwoPi / value;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      value = value / factor;
    } else {
      const float smooth = (original / wavelength - low) / range;
      value = (1.0F - smooth) * value / factor + smooth * value;
    }
  }
}

// YaRN (arXiv 2309.00071): like Llama 3.1's, with a linear ramp over the dimensions.
std::vector<float> yarn_inv_freq(const RopeConfig& config, int head_dim) {
  const double dim = head_dim;
  const auto original = static_cast<double>(config.original_max_position);
  const auto correction_dim = [&](double rotations) {
    return dim * std::log(original / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(config.theta));
  };
  double low = correction_dim(config.beta_fast);
  double high = correction_dim(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;

  const auto factor = static_cast<float>(config.factor);
  std::vector<float> values = position_periods(config.theta, head_dim);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float ramp =
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float extrapolation = 1.0F - std::clamp(ramp, 0.0F, 1.0F);
    const float kept = 1.0F / values[i];
    const float interpolated = 1.0F / (factor * values[i]);
    values[i] = interpolated * (1.0F - extrapolation) + kept * extrapolation;
  }
  return values;
}

double yarn_attention_scaling(const RopeConfig& config) {
  const auto mscale = [&](double scale) {
    return config.factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(config.factor) + 1.0;
  };
  if (config.attention_factor) return *config.attention_factor;
  if (config.mscale && config.mscale_all_dim) {
    return mscale(*config.mscale) / mscale(*config.mscale_all_dim);
  }
  return mscale(1.0);
}

}  // namespace

RopeFrequencies compute_rope_frequencies(const RopeConfig& config, int head_dim,
                                         std::int64_t max_model_len) {
  MOBA_CHECK(head_dim >= 2 && head_dim % 2 == 0, "RoPE: head_dim ", head_dim,
             " is not even and positive");
  RopeFrequencies out;
  switch (config.type) {
    case RopeType::kDefault:
      out.inv_freq = default_inv_freq(config.theta, head_dim);
      break;
    case RopeType::kLinear:
      out.inv_freq = default_inv_freq(config.theta, head_dim);
      for (float& value : out.inv_freq) value /= static_cast<float>(config.factor);
      break;
    case RopeType::kDynamic:
      // Two dimensions have one frequency, 1, whatever the base.
      out.inv_freq = default_inv_freq(
          head_dim > 2 ? dynamic_theta(config, head_dim, max_model_len) : config.theta, head_dim);
      break;
    case RopeType::kLlama3:
      out.inv_freq = default_inv_freq(config.theta, head_dim);
      scale_llama3(config, out.inv_freq);
      break;
    case RopeType::kYarn:
      out.inv_freq = yarn_inv_freq(config, head_dim);
      out.attention_scaling = static_cast<float>(yarn_attention_scaling(config));
      break;
  }
  if (!config.frequency_factors.empty()) {
    MOBA_CHECK(config.frequency_factors.size() == out.inv_freq.size(),
               "RoPE: ", config.frequency_factors.size(), " factors for ", out.inv_freq.size(),
               " frequencies");
    for (std::size_t i = 0; i < out.inv_freq.size(); ++i) {
      out.inv_freq[i] /= config.frequency_factors[i];
    }
  }
  return out;
}

}  // namespace moba
