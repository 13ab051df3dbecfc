// Typed values out of JSON, for settings by name. Every function throws Error that says what was
// expected and what it got; the caller names the key.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/check.h"

namespace moba::json_values {

using Json = nlohmann::json;

// `text` in double quotes for a message: control characters escaped, shortened after 60 bytes.
std::string shown_text(std::string_view text);

[[noreturn]] void expected(std::string_view what, const Json& got);

std::int64_t as_int64(const Json& value);
int as_int(const Json& value);
std::int32_t as_token_id(const Json& value);
// Finite.
float as_float(const Json& value);
double as_double(const Json& value);
bool as_bool(const Json& value);
std::string as_string(const Json& value);
// Bytes: a number, or text as parse_size() reads it.
std::int64_t as_size(const Json& value);
std::uint64_t as_seed(const Json& value);
// "", "none", "last:N" or a list as text; or a list of integers.
std::string as_layers(const Json& value);
// An object of token ids and numbers, which may be texts ("-inf").
std::map<std::int32_t, float> as_logit_bias(const Json& value);

// A lone value counts as a list of one.
template <typename F>
auto as_list(const Json& value, F item) -> std::vector<std::invoke_result_t<F, const Json&>> {
  std::vector<std::invoke_result_t<F, const Json&>> list;
  if (!value.is_array()) {
    list.push_back(item(value));
    return list;
  }
  list.reserve(value.size());
  for (const Json& element : value) list.push_back(item(element));
  return list;
}

// null and -1 stand for "absent".
template <typename F>
auto as_optional(const Json& value, F item) -> std::optional<std::invoke_result_t<F, const Json&>> {
  // The library's == takes the largest unsigned number for -1.
  const bool minus_one = value.is_number_integer() && !value.is_number_unsigned() && value == -1;
  if (value.is_null() || minus_one) return std::nullopt;
  return item(value);
}

// The names of an enumeration; the first spelling of a value is the one written.
template <typename E>
using Names = std::vector<std::pair<std::string_view, E>>;

template <typename E>
E from_name(const Json& value, const Names<E>& names) {
  std::string list;
  std::vector<E> seen;
  for (const auto& [name, e] : names) {
    if (value == name) return e;
    bool again = false;
    for (const E other : seen) again = again || other == e;
    if (again) continue;
    seen.push_back(e);
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  expected("one of " + list, value);
}

template <typename E>
Json to_name(E value, const Names<E>& names) {
  for (const auto& [name, e] : names) {
    if (e == value) return name;
  }
  return nullptr;
}

// A float as the shortest decimal that reads back as the same float; "inf" and "-inf" as texts.
Json float_json(float value);

template <typename T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace moba::json_values
