// UTF-8 scanning. Ill-formed bytes follow the Unicode Standard's "substitution of maximal subparts"
// (chapter 3.9), which is what Python's errors="replace" and Rust's from_utf8_lossy do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moba::utf8 {

inline constexpr char32_t kReplacement = 0xFFFD;

// The outcome of decoding at the start of a non-empty text.
struct Decoded {
  char32_t code_point;  // kReplacement if not `valid`
  int length;           // bytes consumed, at least 1; the maximal ill-formed subpart if not `valid`
  bool valid;
  bool truncated;  // not valid, but the text ends inside a sequence that more bytes could complete
};

// Decodes the first code point of `text`, which must not be empty.
Decoded decode(std::string_view text);

void append(std::string& out, char32_t code_point);

bool is_valid(std::string_view text);

// `text` with each maximal ill-formed subpart replaced by U+FFFD. Equals `text` if that is valid.
std::string replace_invalid(std::string_view text);

}  // namespace moba::utf8
