#include "moba/stats.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace moba {
namespace {

constexpr int kLowestExponent = -17;
constexpr int kMantissaBits = 52;
constexpr int kBitsOfBucket = 2;  // of the mantissa: four buckets to an octave
constexpr int kExponentBias = 1023;

// Of positive numbers: their exponent and first bits, which is the bucket but for an offset.
std::int64_t leading_bits(double value) {
  return static_cast<std::int64_t>(std::bit_cast<std::uint64_t>(value) >>
                                   (kMantissaBits - kBitsOfBucket));
}

}  // namespace

double LatencyHistogram::upper_bound(int bucket) {
  if (bucket >= kNumBuckets - 1) return std::numeric_limits<double>::infinity();
  const int quarters = bucket % 4;
  return std::ldexp(1.0 + 0.25 * quarters, kLowestExponent + bucket / 4);
}

void LatencyHistogram::add(double seconds) {
  seconds = std::max(seconds, 0.0);
  const std::int64_t lowest = std::int64_t{kExponentBias + kLowestExponent} << kBitsOfBucket;
  const std::int64_t bucket = leading_bits(seconds) - lowest + 1;
  ++counts_[static_cast<std::size_t>(std::clamp<std::int64_t>(bucket, 0, kNumBuckets - 1))];
  ++count_;
  sum_seconds_ += seconds;
}

double LatencyHistogram::quantile(double q) const {
  if (count_ == 0) return 0;
  const double rank = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
  double before = 0;
  for (int i = 0; i < kNumBuckets; ++i) {
    const auto here = static_cast<double>(bucket_count(i));
    if (here > 0 && before + here >= rank) {
      const double low = i == 0 ? 0.0 : upper_bound(i - 1);
      if (i == kNumBuckets - 1) return low;
      return low + (upper_bound(i) - low) * std::max(0.0, rank - before) / here;
    }
    before += here;
  }
  return upper_bound(kNumBuckets - 2);
}

}  // namespace moba
