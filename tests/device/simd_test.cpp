// dtype conversions over all 16-bit patterns, and the primitives of every instruction set that the
// machine has.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "device/cpu/cpu_features.h"
#include "tests/catch.h"
#include "tests/device/simd_probe.h"

using moba::BFloat16;
using moba::Float16;
using moba::cpu::Isa;

namespace {

// The widened value by arithmetic rather than by moving bits.
double widen_by_definition(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1.0 + fraction, exponent - bias);
}

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <typename T>
std::vector<T> all_patterns() {
  std::vector<T> values(65536);
  for (std::uint32_t i = 0; i < 65536; ++i) values[i].bits = static_cast<std::uint16_t>(i);
  return values;
}

// Floats on and beside every boundary of rounding to bfloat16, and some of everything else.
std::vector<float> floats_to_round() {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 65536; ++high) {
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  return values;
}

double ulps(float got, double want) {
  const auto rounded = static_cast<float>(want);
  if (std::isinf(rounded) || std::isinf(got)) return got == rounded ? 0 : 1e9;
  const double ulp = std::nextafter(std::abs(rounded), std::numeric_limits<float>::infinity()) -
                     static_cast<double>(std::abs(rounded));
  return std::abs(static_cast<double>(got) - want) / ulp;
}

std::vector<float> exp_arguments() {
  std::vector<float> x = {0.0F, -0.0F, 1.0F, -1.0F, 88.0F, 88.7F, 88.72F, -86.0F, -87.0F, -87.3F};
  std::mt19937 random(1);
  std::uniform_real_distribution<float> wide(-87.3F, 88.7F);
  std::uniform_real_distribution<float> narrow(-2.0F, 2.0F);
  for (int i = 0; i < 50000; ++i) {
    x.push_back(wide(random));
    x.push_back(narrow(random));
  }
  return x;
}

}  // namespace

TEST_CASE("bfloat16 and float16 widen to what they mean", "[dtype]") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    BFloat16 b{};
    b.bits = static_cast<std::uint16_t>(i);
    Float16 h{};
    h.bits = static_cast<std::uint16_t>(i);
    REQUIRE(same(static_cast<float>(b), static_cast<float>(widen_by_definition(b.bits, 8, 7))));
    REQUIRE(same(static_cast<float>(h), static_cast<float>(widen_by_definition(h.bits, 5, 10))));
    if (!std::isnan(static_cast<float>(b))) {
      REQUIRE(BFloat16(static_cast<float>(b)).bits == b.bits);
    }
    if (!std::isnan(static_cast<float>(h))) {
      REQUIRE(Float16(static_cast<float>(h)).bits == h.bits);
    }
  }
}

TEST_CASE("narrowing rounds to nearest, ties to even", "[dtype]") {
  // Between two neighbours a and b: below the middle a, above it b, on it the even one.
  const auto check = [](auto type, std::uint32_t last_finite) {
    using T = decltype(type);
    for (std::uint32_t i = 0; i < last_finite; ++i) {
      T a{};
      T b{};
      a.bits = static_cast<std::uint16_t>(i);
      b.bits = static_cast<std::uint16_t>(i + 1);
      const auto low = static_cast<float>(a);
      const auto high = static_cast<float>(b);
      const float middle = low + (high - low) / 2;
      REQUIRE(T(std::nextafter(middle, low)).bits == a.bits);
      REQUIRE(T(std::nextafter(middle, high)).bits == b.bits);
      REQUIRE(T(middle).bits == (i % 2 == 0 ? a.bits : b.bits));
      REQUIRE(T(-middle).bits == ((i % 2 == 0 ? a.bits : b.bits) | 0x8000));
    }
  };
  check(BFloat16{}, 0x7f7f);
  check(Float16{}, 0x7bff);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(BFloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
  CHECK(BFloat16(-infinity).bits == 0xff80);
  CHECK(Float16(65519.0F).bits == 0x7bff);
  CHECK(Float16(65520.0F).bits == 0x7c00);
  CHECK(Float16(infinity).bits == 0x7c00);
  const float nan_low = std::bit_cast<float>(0x7f800001U);
  CHECK(std::isnan(static_cast<float>(BFloat16(nan_low))));
  CHECK(std::isnan(static_cast<float>(Float16(nan_low))));
}

TEST_CASE("vector conversions equal the scalar ones for every pattern", "[simd]") {
  const auto bf16 = all_patterns<BFloat16>();
  const auto f16 = all_patterns<Float16>();
  const auto floats = floats_to_round();
  for (const Isa isa : moba::cpu::available_isas()) {
    INFO(moba::cpu::isa_name(isa));
    // Odd lengths, so that a partial vector stands at the end.
    for (const std::size_t drop : {0U, 3U}) {
      std::vector<float> wide(bf16.size(), -7.0F);
      const std::size_t n = bf16.size() - drop;
      MOBA_SIMD_SELECT(isa, probe_widen_bf16)(bf16.data(), wide.data(), std::int64_t(n));
      for (std::size_t i = 0; i < n; ++i) REQUIRE(same(wide[i], static_cast<float>(bf16[i])));
      for (std::size_t i = n; i < wide.size(); ++i) REQUIRE(wide[i] == -7.0F);
      MOBA_SIMD_SELECT(isa, probe_widen_f16)(f16.data(), wide.data(), std::int64_t(n));
      for (std::size_t i = 0; i < n; ++i) REQUIRE(same(wide[i], static_cast<float>(f16[i])));
    }
    std::vector<BFloat16> narrow(floats.size());
    std::vector<float> rounded(floats.size());
    narrow.back().bits = 0x1234;
    const auto n = static_cast<std::int64_t>(floats.size()) - 1;
    MOBA_SIMD_SELECT(isa, probe_narrow_bf16)(floats.data(), narrow.data(), n);
    MOBA_SIMD_SELECT(isa, probe_round_bf16)(floats.data(), rounded.data(), n);
    for (std::size_t i = 0; i + 1 < floats.size(); ++i) {
      const BFloat16 want(floats[i]);
      REQUIRE(narrow[i].bits == want.bits);
      REQUIRE(same(rounded[i], static_cast<float>(want)));
    }
    CHECK(narrow.back().bits == 0x1234);
  }
}

TEST_CASE("exponentials", "[simd]") {
  const auto x = exp_arguments();
  const auto n = static_cast<std::int64_t>(x.size());
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : moba::cpu::available_isas()) {
    INFO(moba::cpu::isa_name(isa));
    std::vector<float> general(x.size());
    std::vector<float> nonpositive(x.size());
    MOBA_SIMD_SELECT(isa, probe_exp)(x.data(), general.data(), n);
    MOBA_SIMD_SELECT(isa, probe_exp_nonpositive)(x.data(), nonpositive.data(), n);
    double worst = 0;
    double worst_nonpositive = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      worst = std::max(worst, ulps(general[i], want));
      if (x[i] <= 0) worst_nonpositive = std::max(worst_nonpositive, ulps(nonpositive[i], want));
    }
    INFO("worst error in ulp: " << worst << ", " << worst_nonpositive);
    CHECK(worst < 2.0);
    CHECK(worst_nonpositive < 2.0);

    const std::vector<float> edges = {infinity, -infinity, nan,     89.0F,  100.0F, 1e30F,
                                      -1e30F,   -104.0F,   -150.0F, -95.0F, 0.0F,   -0.0F};
    std::vector<float> out(edges.size());
    MOBA_SIMD_SELECT(isa, probe_exp)(edges.data(), out.data(), std::int64_t(edges.size()));
    for (const std::size_t i : {0U, 3U, 4U, 5U}) CHECK(out[i] == infinity);
    for (const std::size_t i : {1U, 6U, 8U}) CHECK(out[i] == 0.0F);
    CHECK(std::isnan(out[2]));
    CHECK(out[9] == Approx(std::exp(-95.0)).epsilon(0.001));  // subnormal
    CHECK(out[10] == 1.0F);
    CHECK(out[11] == 1.0F);
    const std::vector<float> low = {-infinity, -1e30F, -88.0F, -87.34F, nan, 0.0F, -0.0F};
    MOBA_SIMD_SELECT(isa, probe_exp_nonpositive)
    (low.data(), out.data(), std::int64_t(low.size()));
    for (std::size_t i = 0; i < 4; ++i) CHECK(out[i] == 0.0F);
    CHECK(std::isnan(out[4]));
    CHECK(out[5] == 1.0F);
    CHECK(out[6] == 1.0F);
  }
}

TEST_CASE("reductions and masks", "[simd]") {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  for (const Isa isa : moba::cpu::available_isas()) {
    INFO(moba::cpu::isa_name(isa));
    const int width = MOBA_SIMD_SELECT(isa, probe_width)();
    for (int round = 0; round < 100; ++round) {
      std::vector<float> x(static_cast<std::size_t>(4 * width));
      std::vector<float> y(x.size());
      for (float& v : x) v = uniform(random);
      for (float& v : y) v = uniform(random);
      float out[12];
      MOBA_SIMD_SELECT(isa, probe_reduce)(x.data(), out);
      for (int i = 0; i < 4; ++i) {
        double sum = 0;
        float max = -2;
        for (int j = 0; j < width; ++j) {
          const float v = x[static_cast<std::size_t>(i * width + j)];
          sum += v;
          max = std::max(max, v);
        }
        CHECK(out[i] == Approx(sum).margin(1e-5));
        CHECK(same(out[i], out[4 + i]));
        CHECK(out[8 + i] == max);
      }
      for (int n = 0; n <= width; ++n) {
        std::vector<float> selected(static_cast<std::size_t>(width));
        MOBA_SIMD_SELECT(isa, probe_select)(x.data(), y.data(), selected.data(), n);
        for (std::size_t i = 0; i < selected.size(); ++i) {
          CHECK(selected[i] == (static_cast<int>(i) < n ? std::min(x[i], y[i]) : -1.0F));
        }
      }
    }
  }
}
