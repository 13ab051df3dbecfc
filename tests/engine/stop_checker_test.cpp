#include "engine/stop_checker.h"

#include <algorithm>
#include <random>

#include "tests/catch.h"

namespace moba {
namespace {

// Feeds pieces until a match; what was shown, per piece.
std::vector<std::string> feed(StopChecker& checker, const std::vector<std::string>& pieces) {
  std::vector<std::string> shown;
  for (const std::string& piece : pieces) {
    std::string out;
    const bool stopped = checker.push(piece, true, out);
    shown.push_back(out);
    if (stopped) return shown;
  }
  std::string out;
  checker.finish(out);
  shown.push_back(out);
  return shown;
}

using Pieces = std::vector<std::string>;

TEST_CASE("without stop strings all text is shown at once", "[stop_checker]") {
  const std::vector<std::string> stop;
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"ab", "c"}) == Pieces{"ab", "c", ""});
}

TEST_CASE("a stop string over several tokens", "[stop_checker]") {
  const std::vector<std::string> stop = {"END"};
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"a", "xE", "N", "Dyz"}) == Pieces{"a", "x", "", ""});
  CHECK(checker.matched() == 0);
  StopChecker including(stop, true);
  CHECK(feed(including, {"a", "xE", "N", "Dyz"}) == Pieces{"a", "x", "", "END"});
}

TEST_CASE("a match that does not come is shown", "[stop_checker]") {
  const std::vector<std::string> stop = {"END"};
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"E", "N", "N"}) == Pieces{"", "", "ENN", ""});
  StopChecker at_end(stop, false);
  CHECK(feed(at_end, {"xEN"}) == Pieces{"x", "EN"});
}

TEST_CASE("repetitive patterns fall back on their borders", "[stop_checker]") {
  const std::vector<std::string> stop = {"aab"};
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"a", "a", "a", "a", "b"}) == Pieces{"", "", "a", "a", ""});
}

TEST_CASE("the first string to be complete wins, then the longer", "[stop_checker]") {
  const std::vector<std::string> stop = {"bc", "abcd", "abc"};
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"xabcd"}) == Pieces{"x"});
  CHECK(checker.matched() == 2);
}

TEST_CASE("matches do not count before the output may stop", "[stop_checker]") {
  const std::vector<std::string> stop = {"ab"};
  StopChecker checker(stop, false);
  std::string out;
  CHECK_FALSE(checker.push("ab", false, out));
  CHECK(out == "ab");
  CHECK_FALSE(checker.push("a", false, out));
  CHECK(checker.push("b", true, out));
  CHECK(out == "ab");
}

TEST_CASE("multi-byte characters are held back whole", "[stop_checker]") {
  // U+00E9 and U+00E8 share their first byte; so does the stop string's second character.
  const std::vector<std::string> stop = {"\xC3\xA9\xC3\xA9"};
  StopChecker checker(stop, false);
  CHECK(feed(checker, {"\xC3\xA9", "\xC3\xA8", "\xC3\xA9\xC3\xA9"}) ==
        Pieces{"", "\xC3\xA9\xC3\xA8", ""});
  // A stop string that begins inside a character: nothing is cut there.
  const std::vector<std::string> odd = {"\xA9x"};
  StopChecker half(odd, false);
  CHECK(feed(half, {"a\xC3\xA9", "b"}) == Pieces{"a",
                                                 "\xC3\xA9"
                                                 "b",
                                                 ""});
}

TEST_CASE("shown text equals a search over the whole text", "[stop_checker]") {
  std::mt19937 random(7);
  const auto below = [&random](std::uint32_t n) { return random() % n; };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stop(1 + below(3));
    for (std::string& s : stop) {
      s.resize(1 + below(6));
      for (char& c : s) c = static_cast<char>('a' + below(2));
    }
    std::string text(below(30), 'a');
    for (char& c : text) c = static_cast<char>('a' + below(2));
    const bool include = below(2) == 0;

    // The first end of a match, there the longest.
    std::string expected = text;
    bool found = false;
    for (std::size_t end = 1; end <= text.size() && !found; ++end) {
      std::size_t longest = 0;
      for (const std::string& s : stop) {
        if (end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0) {
          longest = std::max(longest, s.size());
        }
      }
      if (longest > 0) {
        found = true;
        expected = text.substr(0, include ? end : end - longest);
      }
    }

    StopChecker checker(stop, include);
    std::string shown;
    std::size_t at = 0;
    bool stopped = false;
    while (at < text.size() && !stopped) {
      const std::size_t n = std::min<std::size_t>(1 + below(4), text.size() - at);
      stopped = checker.push(std::string_view(text).substr(at, n), true, shown);
      at += n;
      // Nothing is shown that a later match would take back.
      REQUIRE(shown == expected.substr(0, shown.size()));
    }
    if (!stopped) checker.finish(shown);
    REQUIRE(stopped == found);
    REQUIRE(shown == expected);
  }
}

TEST_CASE("a huge stop string costs what the text costs", "[stop_checker]") {
  std::vector<std::string> stop = {std::string(10'000'000, 'a') + "b"};
  StopChecker checker(stop, false);
  std::string out;
  const std::string piece(16, 'a');
  for (int i = 0; i < 1'000'000; ++i) REQUIRE_FALSE(checker.push(piece, true, out));
  CHECK(out.size() == 6'000'000);
  CHECK(checker.push("b", true, out));
  CHECK(out.size() == 6'000'000);
}

}  // namespace
}  // namespace moba
