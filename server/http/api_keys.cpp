#include "server/http/api_keys.h"

#include <algorithm>
#include <cctype>
#include <optional>

namespace moba::server {
namespace {

// Looks at every byte of both, whatever they are.
bool equal(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  const std::size_t length = std::max(given.size(), key.size());
  for (std::size_t i = 0; i < length; ++i) {
    const auto a = static_cast<unsigned char>(i < given.size() ? given[i] : 0);
    const auto b = static_cast<unsigned char>(i < key.size() ? key[i] : 0);
    difference |= static_cast<unsigned>(a ^ b);
  }
  // The compiler may not end the loop early for knowing what becomes of the sum.
  const volatile unsigned result = difference;
  return result == 0;
}

// What follows a scheme, which may be written in any case.
std::optional<std::string_view> after_scheme(std::string_view header, std::string_view scheme) {
  if (header.size() <= scheme.size() || header[scheme.size()] != ' ') return std::nullopt;
  for (std::size_t i = 0; i < scheme.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(header[i])) != scheme[i]) return std::nullopt;
  }
  header.remove_prefix(scheme.size());
  while (!header.empty() && header.front() == ' ') header.remove_prefix(1);
  return header;
}

// Nothing for what is not base64.
std::optional<std::string> from_base64(std::string_view text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string bytes;
  unsigned bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = (bits << 6 | static_cast<unsigned>(digit)) & 0xFFFFU;
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    bytes += static_cast<char>(bits >> num_bits & 0xFFU);
  }
  return bytes;
}

}  // namespace

bool ApiKeys::accepts(std::string_view authorization) const {
  if (keys_.empty()) return true;
  std::string given;
  if (const auto key = after_scheme(authorization, "bearer")) {
    given = *key;
  } else if (const auto basic = after_scheme(authorization, "basic")) {
    const std::optional<std::string> pair = from_base64(*basic);
    const std::size_t colon = pair ? pair->find(':') : std::string::npos;
    if (colon == std::string::npos) return false;
    given = pair->substr(colon + 1);
  } else {
    return false;
  }
  bool accepted = false;
  for (const std::string& key : keys_) accepted |= equal(given, key);
  return accepted;
}

}  // namespace moba::server
