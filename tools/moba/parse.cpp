#include "tools/moba/parse.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "moba/settings.h"

namespace moba::cli {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxTokenId = std::numeric_limits<std::int32_t>::max();

[[noreturn]] void expected(const std::string& what, std::string_view got) {
  throw std::invalid_argument("expected " + what + ", got " + in_quotes(got));
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

// Infinities and NaN included. False if `text` is not a number as a whole.
bool to_double(std::string_view text, double& value) {
  const std::string copy(text);
  if (copy.empty() || std::isspace(static_cast<unsigned char>(copy.front()))) return false;
  char* end = nullptr;
  value = std::strtod(copy.c_str(), &end);
  return end == copy.c_str() + copy.size();
}

bool to_int64(std::string_view text, std::int64_t& value) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::int32_t checked_id(std::int64_t id, std::size_t index) {
  if (id < 0 || id > kMaxTokenId) {
    throw std::invalid_argument("item " + std::to_string(index + 1) + ": token id " +
                                std::to_string(id) + " is out of range");
  }
  return static_cast<std::int32_t>(id);
}

std::vector<std::int32_t> parse_json_ids(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) throw std::invalid_argument("expected a JSON array of token ids");
  std::vector<std::int32_t> ids;
  ids.reserve(json.size());
  for (std::size_t i = 0; i < json.size(); ++i) {
    const Json& item = json[i];
    if (!item.is_number_integer()) {
      throw std::invalid_argument("item " + std::to_string(i + 1) +
                                  ": expected a token id, got a JSON " + item.type_name());
    }
    if (item.is_number_unsigned() && item.get<std::uint64_t>() > std::uint64_t{kMaxTokenId}) {
      throw std::invalid_argument("item " + std::to_string(i + 1) + ": token id " + item.dump() +
                                  " is out of range");
    }
    ids.push_back(checked_id(item.get<std::int64_t>(), i));
  }
  return ids;
}

}  // namespace

std::int64_t parse_integer(std::string_view text) {
  std::int64_t value = 0;
  if (!to_int64(text, value)) expected("an integer", text);
  return value;
}

double parse_number(std::string_view text) {
  double value = 0;
  if (!to_double(text, value) || !std::isfinite(value)) expected("a finite number", text);
  return value;
}

bool parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "1" || word == "on" || word == "yes") return true;
  if (word == "false" || word == "0" || word == "off" || word == "no") return false;
  expected("true or false", text);
}

std::int64_t parse_size(std::string_view text) {
  const Result<std::int64_t> bytes = moba::parse_size(text);
  if (!bytes.ok()) throw std::invalid_argument(bytes.status().message());
  return bytes.value();
}

std::pair<std::int32_t, float> parse_logit_bias(std::string_view text) {
  constexpr std::string_view kWhat = "ID:BIAS, for example 15043:-1.5";
  const std::size_t split = text.find_first_of(":+-");
  std::int64_t id = 0;
  if (split == 0 || split == std::string_view::npos || !to_int64(text.substr(0, split), id) ||
      id > kMaxTokenId) {
    expected(std::string(kWhat), text);
  }
  std::string_view rest = text.substr(text[split] == ':' ? split + 1 : split);
  double bias = 0;
  if (!to_double(rest, bias) || std::isnan(bias)) expected(std::string(kWhat), text);
  return {static_cast<std::int32_t>(id), static_cast<float>(bias)};
}

std::vector<std::int32_t> parse_token_ids(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  if (text[first] == '[') return parse_json_ids(text);
  std::vector<std::int32_t> ids;
  for (std::size_t begin = first; begin != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(kSpace, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    std::int64_t id = 0;
    if (!to_int64(word, id)) {
      throw std::invalid_argument("item " + std::to_string(ids.size() + 1) +
                                  ": expected a token id, got " + in_quotes(word));
    }
    ids.push_back(checked_id(id, ids.size()));
    begin = text.find_first_not_of(kSpace, end);
  }
  return ids;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMaxShown = 60;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  out += text.size() > kMaxShown ? "...\"" : "\"";
  return out;
}

}  // namespace moba::cli
