#include "engine/json_values.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "moba/settings.h"

namespace moba::json_values {
namespace {

constexpr std::int64_t kMaxTokenId = std::numeric_limits<std::int32_t>::max();

// A number as a whole, "inf" and "-inf" included, in any locale.
std::optional<double> parse_double(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::int32_t token_id_of(const std::string& text) {
  std::int64_t id = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size() || id < 0 || id > kMaxTokenId) {
    throw Error("expected a token id, got " + shown_text(text));
  }
  return static_cast<std::int32_t>(id);
}

}  // namespace

std::string shown_text(std::string_view text) {
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
  return out + (text.size() > kMaxShown ? "...\"" : "\"");
}

void expected(std::string_view what, const Json& got) {
  throw Error("expected " + std::string(what) + ", got " +
              (got.is_string()       ? shown_text(got.get_ref<const std::string&>())
               : got.is_structured() ? "a JSON " + std::string(got.type_name())
                                     : got.dump()));
}

std::int64_t as_int64(const Json& value) {
  if (!value.is_number_integer()) expected("an integer", value);
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
    throw Error(value.dump() + " is too large");
  }
  return value.get<std::int64_t>();
}

int as_int(const Json& value) {
  const std::int64_t number = as_int64(value);
  if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max()) {
    throw Error(value.dump() + " is too large");
  }
  return static_cast<int>(number);
}

std::int32_t as_token_id(const Json& value) {
  if (!value.is_number_integer()) expected("a token id", value);
  const std::int64_t id = as_int64(value);
  if (id < 0 || id > kMaxTokenId) throw Error("token id " + value.dump() + " is out of range");
  return static_cast<std::int32_t>(id);
}

float as_float(const Json& value) {
  if (!value.is_number()) expected("a number", value);
  const auto number = static_cast<float>(value.get<double>());
  if (!std::isfinite(number)) expected("a finite number", value);
  return number;
}

double as_double(const Json& value) {
  if (!value.is_number()) expected("a number", value);
  return value.get<double>();
}

bool as_bool(const Json& value) {
  if (!value.is_boolean()) expected("true or false", value);
  return value.get<bool>();
}

std::string as_string(const Json& value) {
  if (!value.is_string()) expected("a string", value);
  return value.get<std::string>();
}

std::int64_t as_size(const Json& value) {
  if (!value.is_string()) {
    const std::int64_t bytes = as_int64(value);
    if (bytes < 0) expected("a size in bytes of 0 or more", value);
    return bytes;
  }
  const Result<std::int64_t> bytes = parse_size(value.get_ref<const std::string&>());
  if (!bytes.ok()) throw Error(bytes.status().message());
  return bytes.value();
}

std::uint64_t as_seed(const Json& value) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  const std::int64_t seed = as_int64(value);
  if (seed < 0) expected("a seed of 0 or more, or -1 for a random one", value);
  return static_cast<std::uint64_t>(seed);
}

std::string as_layers(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text;
  for (const int layer : as_list(value, as_int)) {
    if (!text.empty()) text += ',';
    text += std::to_string(layer);
  }
  return text.empty() ? "none" : text;
}

std::map<std::int32_t, float> as_logit_bias(const Json& value) {
  if (!value.is_object()) expected("an object of token ids and numbers", value);
  std::map<std::int32_t, float> biases;
  for (const auto& [id, bias] : value.items()) {
    std::optional<double> number;
    if (bias.is_string()) number = parse_double(bias.get_ref<const std::string&>());
    if (bias.is_number()) number = bias.get<double>();
    if (!number || std::isnan(*number)) expected("a number for token " + id, bias);
    biases[token_id_of(id)] = static_cast<float>(*number);
  }
  return biases;
}

Json float_json(float value) {
  if (!std::isfinite(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
  double shortest = 0;
  std::from_chars(text.data(), written.ptr, shortest);
  return shortest;
}

}  // namespace moba::json_values

namespace moba {

Result<std::int64_t> parse_size(std::string_view text) {
  const auto refused = [&](const std::string& reason) {
    return Status(StatusCode::kInvalidArgument, reason);
  };
  using json_values::shown_text;
  const auto unreadable = [&] {
    return refused("expected a size in bytes such as 1000, 512M or 1.5GiB, got " +
                   shown_text(text));
  };
  const std::size_t split = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::optional<double> number = json_values::parse_double(text.substr(0, split));
  if (!number) return unreadable();
  std::string unit;
  for (const char c : text.substr(split)) {
    unit += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (unit.starts_with(' ')) unit.erase(0, 1);
  double scale = 1;
  if (!unit.empty() && unit != "b") {
    const std::size_t power = std::string_view("kmgt").find(unit.front());
    const std::string tail = unit.substr(1);
    if (power == std::string_view::npos || !(tail.empty() || tail == "b" || tail == "ib")) {
      return unreadable();
    }
    scale = std::pow(tail == "b" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  const double bytes = *number * scale;
  if (!(bytes < 9.0e18)) return refused("size " + shown_text(text) + " is too large");
  return static_cast<std::int64_t>(bytes);
}

}  // namespace moba
