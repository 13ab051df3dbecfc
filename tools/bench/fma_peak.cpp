#include "tools/bench/fma_peak.h"

#include <algorithm>
#include <vector>
namespace moba::bench {

double fma_peak(DeviceContext& context, double (*clock_seconds)()) {
  constexpr std::int64_t kRounds = 4'000'000;
  const auto kernel = MOBA_SIMD_SELECT(context.isa(), multiply_add);
  const int threads = context.pool().num_threads();
  std::vector<float> sinks(static_cast<std::size_t>(threads));
  double best = 0;
  for (int pass = 0; pass < 9; ++pass) {
    std::int64_t operations = 0;
    const double start = clock_seconds();
    context.pool().parallel_for(threads, [&](std::int64_t item, int) {
      const std::int64_t done = kernel(kRounds, &sinks[static_cast<std::size_t>(item)]);
      if (item == 0) operations = done;
    });
    const double seconds = clock_seconds() - start;
    best = std::max(best, static_cast<double>(operations * threads) / seconds);
  }
  return best;
}

}  // namespace moba::bench
