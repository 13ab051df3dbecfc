#include "tokenizer/regex.h"

#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/regex_syntax.h"
#include "tokenizer/utf8.h"

namespace moba::test {
namespace {

// The matches of an Oniguruma pattern, joined by '|'.
std::string matches(const char* pattern, std::string_view text) {
  const Regex regex(oniguruma_to_pcre2(pattern));
  RegexMatcher matcher(regex, text);
  std::string out;
  std::size_t begin = 0;
  std::size_t end = 0;
  while (matcher.next(begin, end)) {
    out += std::string(text.substr(begin, end - begin)) + "|";
  }
  return out;
}

std::string refusal(const char* pattern) {
  return error_of([&] { Regex(oniguruma_to_pcre2(pattern)); });
}

TEST_CASE("regex: matches without overlap") {
  CHECK(matches("a+", "aa b aaa") == "aa|aaa|");
  CHECK(matches("a*", "aab") == "aa||");
  CHECK(matches("x", "").empty());
  CHECK(matches("", "\u00E9") == "||");
  CHECK(matches("(?<=a)b", "abab") == "b|b|");
}

TEST_CASE("regex: where Oniguruma and PCRE2 differ") {
  // U+180E is no white space in Unicode, but PCRE2's \s has it.
  CHECK(matches("\\s+", "a \u180E\u00A0\u0085b") == " |\u00A0\u0085|");
  CHECK(matches("\\S+", "a\u180E b") == "a\u180E|b|");
  CHECK(matches("[^\\s]+", "a\u180E b") == "a\u180E|b|");
  CHECK(matches("\\w+", "a\u0301_1 \u2170\u24B6-b") == "a\u0301_1|\u2170\u24B6|b|");
  CHECK(matches("\\w", "\u00B2 \u00BD \u2460").starts_with("\u00B2|\u00BD|"));
  CHECK(matches("\\d+", "1\u0661\u00B2") == "1\u0661|");
  // U+30FC has Han nowhere, U+3001 only as an extension.
  CHECK(matches("\\p{Han}+", "\u4E2D\u3001\u6587") == "\u4E2D|\u6587|");
  CHECK(matches("\\p{^L}", "a1") == "1|");
  CHECK(matches("\\P{^L}", "a1") == "a|");
  CHECK(matches("a{,2}b", "aaab") == "aab|");
  CHECK(matches("a{x", "a{x") == "a{x|");
  CHECK(matches("(?m:a.b)", "a\nb") == "a\nb|");
  CHECK(matches("a.b", "a\nb").empty());
  CHECK(matches("^b$", "a\nb\nc") == "b|");
  CHECK(matches("\\v", "\x0b\n") == "\x0b|");
  CHECK(matches("\\u0061\\x{4E2D}\\x41",
                "a\u4E2D"
                "A") ==
        "a\u4E2D"
        "A|");
  CHECK(matches("(?i:'s|'LL)", "'S 'll '\u017F") == "'S|'ll|'\u017F|");
  CHECK(matches("(?i)aB", "AB") == "AB|");
  CHECK(matches("a(?i:b)c", "aBC aBc") == "aBc|");
}

TEST_CASE("regex: what is not supported is refused by name") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"[a&&b]", "&&"},
      {"[a[b]]", "[ inside a class"},
      {"[[:alpha:]]", "[ inside a class"},
      {"[\\S]", "\\S"},
      {"\\bx", "\\b"},
      {"(a)\\1", "\\1"},
      {"(?<n>a)", "(?<"},
      {"a{1,2}+", "{n,m}+"},
      {"a{2}?", "{n}?"},
      {"x(?i)y", "(?i)"},
      {"\\h", "\\h"},
      {"[]a]", "an empty class"},
      {"[a", "class without"},
      {"a\\", "a lone"},
      {"\\p{L", "\\p without"},
      {"\\pL", "\\p without"},
      {"\\xff", "byte above"},
      {"\\x{}", "malformed"},
      {"\\u12", "malformed"},
      {"(*UTF)", "(*"},
      {"\\p{L&}", "\\p{L&}"}};
  for (const auto& [pattern, name] : cases) {
    INFO(pattern);
    const std::string error = refusal(pattern);
    CHECK(error.find("which is not supported") != std::string::npos);
    CHECK(error.find(name) != std::string::npos);
  }
  for (const char* pattern : {"(a", "a)", "*", "\\p{NoSuchScript}", "(?<=a+)b", "[z-a]"}) {
    INFO(pattern);
    CHECK(refusal(pattern).starts_with("invalid regular expression at offset "));
  }
  CHECK(refusal(std::string(100000, 'a').c_str()) != "no error");
  CHECK(refusal((std::string(1000, '(') + std::string(1000, ')')).c_str()) != "no error");
}

TEST_CASE("regex: quoting") {
  const std::string text = "a.b*c[d]\\e{f}(g)|^$?+-# \u4E2D\n";
  const Regex regex(quote_for_pcre2(text));
  RegexMatcher matcher(regex, text);
  std::size_t begin = 1;
  std::size_t end = 0;
  REQUIRE(matcher.next(begin, end));
  CHECK(begin == 0);
  CHECK(end == text.size());
}

TEST_CASE("regex: runaway backtracking is cut off") {
  const Regex regex("(?:a+)+(?:a|b)+[xy]");
  const std::string text(200, 'a');
  CHECK(error_of([&] {
          RegexMatcher matcher(regex, text);
          std::size_t begin = 0;
          std::size_t end = 0;
          matcher.next(begin, end);
        }).find("match limit") != std::string::npos);
}

}  // namespace
}  // namespace moba::test
