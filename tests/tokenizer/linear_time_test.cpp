// Time grows with the text, not faster. Times are compared with each other only: half a text
// against the whole, the best of several.
#include <algorithm>
#include <ctime>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace moba::test {
namespace {

constexpr std::size_t kMega = std::size_t{1} << 20;

// The sample over and over, each time with other numbers in it, so that it does not repeat exactly.
std::string long_document(std::size_t bytes) {
  std::string out;
  out.reserve(bytes + sample_text().size());
  for (unsigned round = 0; out.size() < bytes; ++round) {
    std::string part = sample_text();
    for (std::size_t i = 100; i < part.size(); i += 997) {
      std::string number(1, ' ');
      number.append(std::to_string(round * 7919 + i)).push_back(' ');
      part.replace(part.find(' ', i - 50), 1, number);
    }
    out += part;
  }
  out.resize(bytes);
  return out;
}

struct Timed {
  double seconds = 1e9;  // of processor time, the best so far
  std::size_t num_ids = 0;
};

void time_encode(const Tokenizer& tokenizer, std::string_view text, Timed& best) {
  const std::clock_t start = std::clock();
  best.num_ids = tokenizer.encode(text, {false, false}).size();
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  best.seconds = std::min(best.seconds, seconds);
}

struct Growth {
  Timed half;
  Timed whole;
  bool linear;  // the whole text takes at most `factor` times as long as half of it, and `slack`
                // seconds
};

// What is not linear fails every attempt; a busy machine does not.
Growth measure_growth(const Tokenizer& tokenizer, std::string_view text, double factor,
                      double slack) {
  Growth out;
  out.linear = false;
  for (int attempt = 0; attempt < 4 && !out.linear; ++attempt) {
    time_encode(tokenizer, text.substr(0, text.size() / 2), out.half);
    time_encode(tokenizer, text, out.whole);
    out.linear = out.whole.seconds <= factor * out.half.seconds + slack;
  }
  return out;
}

std::vector<std::string> all_tokenizers() {
  std::vector<std::string> names = committed_tokenizers();
  names.insert(names.end(), {"llama2", "llama3"});
  return names;
}

TEST_CASE("time is linear in the length of a document", "[long]") {
  const std::string document = long_document(8 * kMega);
  for (const std::string& name : all_tokenizers()) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    if (tokenizer == nullptr) continue;
    const Growth growth = measure_growth(*tokenizer, document, 3.0, 0.0);
    const auto [half, whole] = std::pair(growth.half, growth.whole);
    std::cout << name << ": 8 MiB in " << whole.seconds << " s, "
              << static_cast<double>(document.size()) / 1e6 / whole.seconds << " MB/s, "
              << whole.num_ids << " ids\n";
    INFO(half.seconds << " s for half the text, " << whole.seconds << " s for the text");
    CHECK(growth.linear);
    CHECK(whole.num_ids >= 19 * half.num_ids / 10);
    CHECK(whole.num_ids <= 21 * half.num_ids / 10);
  }
}

TEST_CASE("a long word does not blow up", "[long]") {
  constexpr std::size_t kQuarter = kMega / 4;
  std::string marks;  // NFC has to order them
  while (marks.size() < kQuarter) marks += "\u0301\u0323";
  const std::vector<std::string> words = {std::string(kMega, 'a'),
                                          std::string(kMega, ' '),
                                          std::string(kQuarter, '\n'),
                                          std::string(kQuarter, '1'),
                                          std::string(kQuarter, '\''),
                                          std::string(kQuarter, '\xFF'),
                                          marks};
  for (const std::string& name : all_tokenizers()) {
    const auto tokenizer = shared_tokenizer(name);
    if (tokenizer == nullptr) continue;
    for (const std::string& word : words) {
      INFO(name << ", word of bytes " << static_cast<int>(static_cast<unsigned char>(word[0])));
      // Sorting costs n log n; below a tenth of a second the noise is larger.
      const Growth growth = measure_growth(*tokenizer, word, 3.5, 0.1);
      INFO(growth.half.seconds << " s for half the word, " << growth.whole.seconds << " s for all");
      CHECK(growth.linear);
      CHECK(growth.whole.num_ids > 0);
    }
  }
}

}  // namespace
}  // namespace moba::test
