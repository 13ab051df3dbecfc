#include "engine/decode_graphs.h"

#include "tests/catch.h"

namespace moba {

TEST_CASE("the ladder of decode sizes is dense where it matters and ends where batches do") {
  CHECK(decode_ladder(1) == std::vector<int>{1});
  CHECK(decode_ladder(5) == std::vector<int>{1, 2, 4, 5});
  CHECK(decode_ladder(32) == std::vector<int>{1, 2, 4, 8, 16, 24, 32});
  for (const int most : {1, 2, 3, 8, 17, 100, 256, 1000, 65536}) {
    const std::vector<int> ladder = decode_ladder(most);
    CHECK(ladder.front() == 1);
    CHECK(ladder.back() == most);
    CHECK(ladder.size() < 120);
    for (std::size_t i = 1; i < ladder.size(); ++i) {
      CHECK(ladder[i] > ladder[i - 1]);
      // Padding is at most an eighth, but for small batches.
      if (ladder[i] > 64) CHECK(ladder[i] - ladder[i - 1] <= ladder[i] / 8);
    }
  }
}

}  // namespace moba
