#include "tokenizer/utf8.h"

#include <cstring>

namespace moba::utf8 {

Decoded decode(std::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned lead = s[0];
  if (lead < 0x80) return {lead, 1, true, false};
  int length = 0;
  char32_t value = 0;
  // Bounds of the second byte (Unicode Standard, table 3-7): they exclude overlong forms,
  // surrogates and values past 10FFFF.
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    value = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    value = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    value = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacement, 1, false, false};
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<std::size_t>(i) >= text.size()) return {kReplacement, i, false, true};
    if (s[i] < low || s[i] > high) return {kReplacement, i, false, false};
    value = (value << 6) | (s[i] & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {value, length, true, false};
}

void append(std::string& out, char32_t code_point) {
  const auto byte = [&out](char32_t value) { out.push_back(static_cast<char>(value)); };
  if (code_point < 0x80) {
    byte(code_point);
  } else if (code_point < 0x800) {
    byte(0xC0 | (code_point >> 6));
    byte(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    byte(0xE0 | (code_point >> 12));
    byte(0x80 | ((code_point >> 6) & 0x3F));
    byte(0x80 | (code_point & 0x3F));
  } else {
    byte(0xF0 | (code_point >> 18));
    byte(0x80 | ((code_point >> 12) & 0x3F));
    byte(0x80 | ((code_point >> 6) & 0x3F));
    byte(0x80 | (code_point & 0x3F));
  }
}

namespace {

// Length of the longest valid prefix.
std::size_t valid_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    std::uint64_t eight = 0;
    while (i + sizeof(eight) <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof(eight));
      if ((eight & 0x8080808080808080ULL) != 0) break;
      i += sizeof(eight);
    }
    if (i >= text.size()) break;
    const Decoded next = decode(text.substr(i));
    if (!next.valid) return i;
    i += static_cast<std::size_t>(next.length);
  }
  return i;
}

}  // namespace

bool is_valid(std::string_view text) { return valid_prefix(text) == text.size(); }

std::string replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (true) {
    const std::size_t good = valid_prefix(text);
    out.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) return out;
    append(out, kReplacement);
    text.remove_prefix(static_cast<std::size_t>(decode(text).length));
  }
}

}  // namespace moba::utf8
