// The parts that tokenizers are made of.
#include <random>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/piece_boundaries.h"
#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer_base.h"
#include "tokenizer/unicode_normal_form.h"
#include "tokenizer/utf8.h"
#include "tokenizer/word_cache.h"

namespace moba::test {
namespace {

std::string encoded(char32_t c) {
  std::string out;
  utf8::append(out, c);
  return out;
}

TEST_CASE("utf8: every code point goes there and back") {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string bytes = encoded(c);
    const utf8::Decoded back = utf8::decode(bytes);
    if (back.code_point != c || !back.valid || back.length != static_cast<int>(bytes.size())) {
      FAIL("code point " << static_cast<unsigned>(c));
    }
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const utf8::Decoded part = utf8::decode(std::string_view(bytes).substr(0, cut));
      if (part.valid || !part.truncated || part.length != static_cast<int>(cut)) {
        FAIL("a part of code point " << static_cast<unsigned>(c));
      }
    }
  }
}

TEST_CASE("utf8: ill-formed sequences are replaced by their maximal subparts") {
  // Expected values are Python's bytes.decode("utf-8", "replace").
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\xff", "\uFFFD"},
      {"a\x80z", "a\uFFFDz"},
      {"\xc0\xaf", "\uFFFD\uFFFD"},
      {"\xe2\x82", "\uFFFD"},
      {"\xe2\x82x", "\uFFFDx"},
      {"\xe2\x28\xa1", "\uFFFD(\uFFFD"},
      {"\xe0\x80\xaf", "\uFFFD\uFFFD\uFFFD"},
      {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xf0\x9f\x98", "\uFFFD"},
      {"\xf0\x9f\x98\xf0\x9f\x98\x80", "\uFFFD\U0001F600"},
      {"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xf5\x80", "\uFFFD\uFFFD"},
      {"12345678\xff"
       "12345678",
       "12345678\uFFFD12345678"}};
  for (const auto& [bytes, expected] : cases) {
    CHECK_FALSE(utf8::is_valid(bytes));
    CHECK(utf8::replace_invalid(bytes) == expected);
    CHECK(utf8::is_valid(expected));
  }
  CHECK(utf8::replace_invalid("").empty());
}

TEST_CASE("byte alphabet: spelling every byte and back") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  CHECK(byte_level::bytes_of(byte_level::spell(all)) == all);
  CHECK(byte_level::spell(" \n!") == "\u0120\u010A!");
  CHECK_FALSE(byte_level::bytes_of(" "));
  CHECK_FALSE(byte_level::bytes_of("\u4E2D"));
  CHECK_FALSE(byte_level::bytes_of("\u0144"));
}

TEST_CASE("pieces: the bytes they stand for") {
  CHECK(bytes_of_piece("\u2581the", true) == " the");
  CHECK(bytes_of_piece("\u2581\u2581a\u2581", true) == "  a ");
  CHECK(bytes_of_piece("<0x0A>", true) == "\n");
  CHECK(bytes_of_piece("<0xFF>", true) == "\xff");
  CHECK(bytes_of_piece("<0x0A>", false) == "<0x0A>");
  CHECK(bytes_of_piece("<0x0a>", true) == "<0x0a>");
  CHECK(bytes_of_piece("<0x0G>", true) == "<0x0G>");
  CHECK(bytes_of_piece("", true).empty());
}

TEST_CASE("normal forms") {
  const auto check = [](std::string_view text, std::string_view nfc, std::string_view nfd,
                        std::string_view nfkc, std::string_view nfkd) {
    CHECK(to_normal_form(text, NormalForm::kNfc) == nfc);
    CHECK(to_normal_form(text, NormalForm::kNfd) == nfd);
    CHECK(to_normal_form(text, NormalForm::kNfkc) == nfkc);
    CHECK(to_normal_form(text, NormalForm::kNfkd) == nfkd);
  };
  check("", "", "", "", "");
  check("plain ASCII text", "plain ASCII text", "plain ASCII text", "plain ASCII text",
        "plain ASCII text");
  check("abce\u0301x", "abc\u00E9x", "abce\u0301x", "abc\u00E9x", "abce\u0301x");
  check("s\u0307\u0323", "\u1E69", "s\u0323\u0307", "\u1E69", "s\u0323\u0307");
  check("\u1E9B\u0323", "\u1E9B\u0323", "\u017F\u0323\u0307", "\u1E69", "s\u0323\u0307");
  check("\uFB01 \u00B2", "\uFB01 \u00B2", "\uFB01 \u00B2", "fi 2", "fi 2");
  check("\u1100\u1161\u11A8", "\uAC01", "\u1100\u1161\u11A8", "\uAC01", "\u1100\u1161\u11A8");
  check("\u212B", "\u00C5", "A\u030A", "\u00C5", "A\u030A");
  check("\u0958", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C", "\u0915\u093C");
  // Two starters do not compose over a blocking mark.
  check("a\u0327\u0327\u0301", "\u00E1\u0327\u0327", "a\u0327\u0327\u0301", "\u00E1\u0327\u0327",
        "a\u0327\u0327\u0301");
}

TEST_CASE("string index") {
  StringIndex index;
  CHECK(index.find("x") == -1);
  for (int i = 0; i < 5000; ++i) REQUIRE(index.insert(std::to_string(i * 37), i));
  CHECK(index.insert("", 5000));
  CHECK_FALSE(index.insert("37", 9));
  CHECK(index.size() == 5001);
  for (int i = 0; i < 5000; ++i) REQUIRE(index.find(std::to_string(i * 37)) == i);
  CHECK(index.find("") == 5000);
  CHECK(index.find("38") == -1);
  CHECK(index.find(std::string_view("37\0", 3)) == -1);
}

TEST_CASE("piece boundaries") {
  PieceBoundaries boundaries;
  CHECK(boundaries.separates('a', 'b'));
  boundaries.add_piece("ab\u4E2Dc");
  boundaries.add_piece("\u2581x");
  boundaries.add_piece("q");
  CHECK_FALSE(boundaries.separates('a', 'b'));
  CHECK(boundaries.separates('b', 'a'));
  CHECK_FALSE(boundaries.separates('b', 0x4E2D));
  CHECK_FALSE(boundaries.separates(0x4E2D, 'c'));
  CHECK(boundaries.separates('b', 'c'));
  CHECK_FALSE(boundaries.separates(0x2581, 'x'));
  CHECK(boundaries.separates('x', 0x2581));
}

TEST_CASE("word cache gives what was put in") {
  WordCache cache(std::size_t{1} << 20);
  std::mt19937 random(3);
  int made = 0;
  for (int i = 0; i < 20000; ++i) {
    // Words of 1 to 40 bytes; longer ones and those with many ids are never kept.
    const std::string word(1 + random() % 40, static_cast<char>('a' + random() % 26));
    std::vector<TokenId> out = {-1};
    cache.append(word, out, [&](std::string_view w, std::vector<TokenId>& to) {
      ++made;
      for (std::size_t k = 0; k < 1 + w.size() % 11; ++k) to.push_back(w[0]);
    });
    std::vector<TokenId> expected(2 + word.size() % 11, word[0]);
    expected[0] = -1;
    REQUIRE(out == expected);
  }
  CHECK(made < 15000);
}

std::string describe(const std::vector<AddedTokenMatcher::Segment>& segments,
                     std::string_view text) {
  std::string out;
  for (const auto& segment : segments) {
    out += (segment.id < 0 ? "_" : std::to_string(segment.id)) + "[" +
           std::string(text.substr(segment.begin, segment.end - segment.begin)) + "]";
  }
  return out;
}

TEST_CASE("added tokens: leftmost, longest, with their flags") {
  const auto token = [](TokenId id, std::string content) {
    AddedToken out;
    out.id = id;
    out.content = std::move(content);
    return out;
  };
  std::vector<AddedToken> tokens = {token(1, "<a"),  token(2, "<a>b"), token(3, "<l>"),
                                    token(4, "<r>"), token(5, "word"), token(6, "<s>"),
                                    token(7, ""),    token(8, "<s>")};
  tokens[2].lstrip = true;
  tokens[3].rstrip = true;
  tokens[4].single_word = true;
  tokens[5].special = true;
  const AddedTokenMatcher matcher(tokens);
  const auto found = [&](std::string_view text, bool special) {
    return describe(matcher.find(text, special), text);
  };
  CHECK(found("", true).empty());
  CHECK(found("x", true) == "_[x]");
  CHECK(found("<a><a>bb", true) == "1[<a]_[>]2[<a>b]_[b]");
  CHECK(found("a \t<l> b", true) == "_[a]3[ \t<l>]_[ b]");
  CHECK(found("a <r> \n\u3000b", true) == "_[a ]4[<r> \n\u3000]_[b]");
  CHECK(found("<r>  <l>", true) == "4[<r>  ]3[<l>]");
  CHECK(found("word sword words \u00E9word word", true) ==
        "5[word]_[ sword words \u00E9word ]5[word]");
  CHECK(found("<s>x<s>", true) == "6[<s>]_[x]6[<s>]");
  CHECK(found("<s>x<s>", false) == "_[<s>x<s>]");
  CHECK(AddedTokenMatcher().find("x", true).size() == 1);
}

}  // namespace
}  // namespace moba::test
