#include "server/openai/json_fields.h"

#include <cmath>
#include <limits>

namespace moba::openai {
namespace {

constexpr int kMaxDepth = 64;

// How deep arrays and objects stand in each other. Of a text that is not JSON, some number.
int depth_of(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// "[json.exception.parse_error.101] parse error at line 1, column 7: syntax error while ..."
// without the library's name and without what was read last, which may be anything.
std::string parse_message(const Json::parse_error& error) {
  std::string message = error.what();
  if (const std::size_t end = message.find("] "); end != std::string::npos) {
    message.erase(0, end + 2);
  }
  constexpr std::string_view kLast = "; last read: ";
  if (const std::size_t begin = message.find(kLast); begin != std::string::npos) {
    const std::size_t end = message.find("; expected", begin);
    message.erase(begin, end == std::string::npos ? end : end - begin);
  }
  return message;
}

[[noreturn]] void wrong_type(const std::string& name, const char* expected, const Json& value) {
  refuse(name, name + " must be " + expected + ", not " + kind_of(value));
}

}  // namespace

Json parse_object(std::string_view text) {
  const int depth = depth_of(text);
  if (depth > kMaxDepth) {
    refuse("", "JSON nested " + std::to_string(depth) + " deep, and " + std::to_string(kMaxDepth) +
                   " is the limit");
  }
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    refuse("", "not JSON: " + parse_message(error));
  } catch (const Json::out_of_range&) {
    refuse("", "not JSON: a number is out of range");
  }
  if (!json.is_object()) refuse("", "expected a JSON object, got " + kind_of(json));
  return json;
}

std::string kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "the string " + in_quotes(value.get_ref<const std::string&>());
    case Json::value_t::boolean:
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
    case Json::value_t::number_float:
      return value.dump();
    default:
      return "something else";
  }
}

std::int64_t to_integer(const Json& value, const std::string& name, std::int64_t least,
                        std::int64_t most) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  bool fits = false;
  std::int64_t number = 0;
  if (value.is_number_unsigned()) {
    const auto u = value.get<std::uint64_t>();
    fits = u <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    number = static_cast<std::int64_t>(u);
  } else if (value.is_number_integer()) {
    fits = true;
    number = value.get<std::int64_t>();
  } else if (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>()) {
    fits = std::abs(value.get<double>()) <= kExact;
    if (fits) number = static_cast<std::int64_t>(value.get<double>());
  } else {
    wrong_type(name, "a whole number", value);
  }
  if (!fits || number < least || number > most) {
    refuse(name, name + " is " + value.dump() + ", not in " + std::to_string(least) + " .. " +
                     std::to_string(most));
  }
  return number;
}

float to_number(const Json& value, const std::string& name) {
  if (!value.is_number()) wrong_type(name, "a number", value);
  const auto number = static_cast<float>(value.get<double>());
  if (!std::isfinite(number)) refuse(name, name + " is " + value.dump() + ", which is too large");
  return number;
}

std::vector<std::int32_t> to_token_ids(const Json& value, const std::string& name) {
  if (!value.is_array()) wrong_type(name, "an array of token ids", value);
  std::vector<std::int32_t> ids;
  ids.reserve(value.size());
  for (const Json& item : value) {
    // The name of an item is made where it is needed only: there may be a million.
    const bool is_id = item.is_number_unsigned() &&
                       item.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
    if (!is_id) {
      to_integer(item, name + "[" + std::to_string(ids.size()) + "]", 0,
                 std::numeric_limits<std::int32_t>::max());
    }
    ids.push_back(item.get<std::int32_t>());
  }
  return ids;
}

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) wrong_type(path_.empty() ? "the body" : path_, "an object", object);
}

std::string Fields::full_name(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

const Json* Fields::find(std::string_view name) {
  known_.emplace(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::ignore(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) known_.emplace(name);
}

std::vector<std::string> Fields::unknown() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_.items()) {
    if (known_.count(name) == 0) names.push_back(full_name(name));
  }
  return names;
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) wrong_type(full_name(name), "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> Fields::string(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong_type(full_name(name), "a string", *value);
  return value->get<std::string>();
}

std::optional<std::int64_t> Fields::integer(std::string_view name, std::int64_t least,
                                            std::int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_integer(*value, full_name(name), least, most);
}

std::optional<int> Fields::integer(std::string_view name) {
  const auto value =
      integer(name, std::numeric_limits<int>::min(), std::numeric_limits<int>::max());
  if (!value) return std::nullopt;
  return static_cast<int>(*value);
}

std::optional<float> Fields::number(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_number(*value, full_name(name));
}

std::optional<std::vector<std::string>> Fields::strings(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return std::vector<std::string>{value->get<std::string>()};
  if (!value->is_array()) wrong_type(full_name(name), "a string or an array of strings", *value);
  std::vector<std::string> list;
  for (const Json& item : *value) {
    if (!item.is_string()) {
      wrong_type(full_name(name) + "[" + std::to_string(list.size()) + "]", "a string", item);
    }
    list.push_back(item.get<std::string>());
  }
  return list;
}

std::optional<std::vector<std::int32_t>> Fields::token_ids(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return to_token_ids(*value, full_name(name));
}

}  // namespace moba::openai
