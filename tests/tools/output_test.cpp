#include "tools/moba/output.h"

#include "tests/catch.h"
#include "tools/moba/help.h"
#include "tools/moba/progress.h"

namespace moba::cli {
namespace {

TEST_CASE("numbers as people read them") {
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(1000) == "1,000");
  CHECK(with_commas(-1234567) == "-1,234,567");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(37774960) == "36.0 MiB");
  CHECK(human_bytes(std::int64_t{8} << 30) == "8.0 GiB");
  CHECK(human_count(18885504) == "18.9M");
  CHECK(human_count(999) == "999");
  CHECK(ranges({}).empty());
  CHECK(ranges({3}) == "3");
  CHECK(ranges({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8");
}

TEST_CASE("the attention of the layers in words") {
  CHECK(describe_attention({8, 8, 0, 0}, 64) ==
        "MoBA in layers 0-1 (block 64, top-k 8), full attention in layers 2-3");
  CHECK(describe_attention({8, 0}, 64) ==
        "MoBA in layer 0 (block 64, top-k 8), full attention in layer 1");
  CHECK(describe_attention({4, 4}, 512) == "MoBA in all 2 layers (block 512, top-k 4)");
  CHECK(describe_attention({0, 0, 0}, 0) == "full attention in all 3 layers");
}

TEST_CASE("a ratio of nothing is nothing, never NaN") {
  CHECK(ratio(1, 2) == 0.5);
  CHECK(ratio(1, 0) == 0);
  CHECK(ratio(0, 0) == 0);
}

TEST_CASE("memory is measured") { CHECK(peak_memory_bytes() > 1 << 20); }

TEST_CASE("the progress bar fits its terminal") {
  CHECK(progress_line("reading", 512, 2048, 2.0, 100) ==
        "reading [==========>                             ]  25%  512/2,048 tokens  256 tok/s  "
        "6s left");
  for (int width = 0; width < 200; ++width) {
    for (const std::int64_t done : {0, 1, 1000, 131072}) {
      const std::string line = progress_line("reading the prompt", done, 131072, 3.5, width);
      CAPTURE(width, line);
      CHECK(static_cast<int>(line.size()) <= std::max(width - 3, 0));
    }
  }
  CHECK(progress_line("r", 0, 0, 0, 80).find("nan") == std::string::npos);
  CHECK(progress_line("r", 1, 100000, 1, 90).find("27h46m left") != std::string::npos);
}

TEST_CASE("help texts break at spaces") {
  CHECK(wrap("one two three", 7) == std::vector<std::string>{"one two", "three"});
  CHECK(wrap("unbreakable", 4) == std::vector<std::string>{"unbreakable"});
  CHECK(wrap("a\nb", 10) == std::vector<std::string>{"a", "b"});
}

}  // namespace
}  // namespace moba::cli
