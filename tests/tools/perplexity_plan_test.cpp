#include "tools/moba/perplexity_plan.h"

#include <stdexcept>

#include "tests/catch.h"

namespace moba::cli {
namespace {

TEST_CASE("windows score every token that has one before it exactly once") {
  for (const bool has_bos : {false, true}) {
    const std::int64_t bos = has_bos ? 1 : 0;
    for (const std::int64_t num_tokens : {2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65}) {
      for (const std::int64_t window : {2, 3, 8, 16, 64, 100}) {
        for (std::int64_t stride = 0; stride < window; ++stride) {
          CAPTURE(has_bos, num_tokens, window, stride);
          std::vector<int> scored(static_cast<std::size_t>(num_tokens));
          for (const Window& w : plan_windows(num_tokens, has_bos, window, stride)) {
            REQUIRE(w.begin >= 0);
            REQUIRE(w.end <= num_tokens);
            REQUIRE(w.end - w.begin + bos <= window);
            // The first token of the model's input is never scored.
            REQUIRE(w.first_scored >= w.begin + 1 - bos);
            REQUIRE(w.first_scored < w.end);
            for (std::int64_t i = w.first_scored; i < w.end; ++i) {
              ++scored[static_cast<std::size_t>(i)];
            }
          }
          if (!has_bos) {
            REQUIRE(scored[0] == 0);
            scored[0] = 1;
          }
          for (const int count : scored) REQUIRE(count == 1);
        }
      }
    }
  }
}

TEST_CASE("a text that fits is one window") {
  const std::vector<Window> windows = plan_windows(16383, true, 16384, 0);
  REQUIRE(windows.size() == 1);
  CHECK(windows[0].begin == 0);
  CHECK(windows[0].end == 16383);
  CHECK(windows[0].first_scored == 0);
}

TEST_CASE("numbers that measure nothing are refused") {
  CHECK_THROWS_AS(plan_windows(0, true, 8, 0), std::invalid_argument);
  CHECK_THROWS_AS(plan_windows(1, false, 8, 0), std::invalid_argument);
  CHECK_THROWS_AS(plan_windows(100, true, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(plan_windows(100, true, 8, 8), std::invalid_argument);
  CHECK_THROWS_AS(plan_windows(100, true, 8, -1), std::invalid_argument);
  CHECK_NOTHROW(plan_windows(1, true, 2, 1));
}

TEST_CASE("buckets double from 1K") {
  NllSums sums;
  for (const std::int64_t position : {1, 1023, 1024, 2047, 2048, 4096, 8191, 40000}) {
    sums.add(position, 2.0);
  }
  sums.add(1, 5.0);
  CHECK(sums.num_tokens() == 9);
  CHECK(sums.nll() == Approx(21.0));
  CHECK(sums.mean() == Approx(21.0 / 9));
  const std::vector<NllSums::Bucket> buckets = sums.buckets();
  REQUIRE(buckets.size() == 5);
  CHECK(buckets[0].name() == "0-1K");
  CHECK(buckets[0].num_tokens == 3);
  CHECK(buckets[0].mean() == Approx(3.0));
  CHECK(buckets[1].name() == "1K-2K");
  CHECK(buckets[1].num_tokens == 2);
  CHECK(buckets[2].name() == "2K-4K");
  CHECK(buckets[3].name() == "4K-8K");
  CHECK(buckets[3].num_tokens == 2);
  CHECK(buckets[4].name() == "32K-64K");
  CHECK(buckets[4].begin == 32768);
  CHECK(buckets[4].end == 65536);
}

}  // namespace
}  // namespace moba::cli
