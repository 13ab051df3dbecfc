#include "model/json_file.h"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "device/check.h"
#include "model/mapped_file.h"

namespace moba {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{32} << 20;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxQuoted = 120;

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxQuoted)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    out += control ? '?' : c;
  }
  return out + (text.size() > kMaxQuoted ? "...'" : "'");
}

json load_json_object(const std::filesystem::path& path) {
  const MappedFile file(path);
  MOBA_CHECK(file.size() > 0, path.string(), ": empty file");
  MOBA_CHECK(file.size() <= kMaxFileBytes, path.string(), ": ", file.size(),
             " bytes, more than the ", kMaxFileBytes, " allowed");

  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, const json& value) {
    MOBA_CHECK(depth <= kMaxDepth, path.string(), ": JSON nested deeper than ", kMaxDepth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      MOBA_CHECK(keys.back().insert(key).second, path.string(), ": key ", in_quotes(key),
                 " given twice");
    }
    return true;
  };
  const auto* begin = reinterpret_cast<const char*>(file.data());
  // The parser would take a zero byte for the end.
  MOBA_CHECK(std::memchr(begin, 0, file.size()) == nullptr, path.string(),
             ": not JSON (a zero byte)");
  json value;
  try {
    value = json::parse(begin, begin + file.size(), check);
  } catch (const json::parse_error& error) {
    throw Error(concat(path.string(), ": not JSON (at byte ", error.byte, ")"));
  } catch (const json::out_of_range&) {
    throw Error(concat(path.string(), ": not JSON (a number that no type can hold)"));
  }
  MOBA_CHECK(value.is_object(), path.string(), ": not a JSON object");
  return value;
}

JsonObject::JsonObject(std::string file, const json& object, std::string prefix)
    : file_(std::move(file)), object_(&object), prefix_(std::move(prefix)) {}

bool JsonObject::has(const char* key) const {
  const auto it = object_->find(key);
  return it != object_->end() && !it->is_null();
}

const json& JsonObject::value(const char* key) const {
  if (!has(key)) throw Error(concat(file_, ": no ", prefix_, key));
  return *object_->find(key);
}

void JsonObject::wrong_type(const char* key, const char* expected) const {
  const json& found = value(key);
  const std::string text = found.is_structured() ? found.type_name() : in_quotes(found.dump());
  fail(key, "must be ", expected, ", not ", text);
}

std::int64_t JsonObject::checked(const char* key, const json& found, std::int64_t min,
                                 std::int64_t max) const {
  if (!found.is_number_integer()) wrong_type(key, "a whole number");
  const bool fits = !found.is_number_unsigned() || found.get<std::uint64_t>() <= INT64_MAX;
  if (!fits || found.get<std::int64_t>() < min || found.get<std::int64_t>() > max) {
    fail(key, "is ", found.dump(), ", must be from ", min, " to ", max);
  }
  return found.get<std::int64_t>();
}

std::int64_t JsonObject::integer(const char* key, std::int64_t min, std::int64_t max) const {
  return checked(key, value(key), min, max);
}

std::int64_t JsonObject::integer_or(const char* key, std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) const {
  return has(key) ? integer(key, min, max) : fallback;
}

double JsonObject::number(const char* key) const {
  const json& found = value(key);
  if (!found.is_number() || !std::isfinite(found.get<double>())) wrong_type(key, "a number");
  return found.get<double>();
}

double JsonObject::number_or(const char* key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool JsonObject::boolean_or(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!value(key).is_boolean()) wrong_type(key, "true or false");
  return value(key).get<bool>();
}

const std::string& JsonObject::string(const char* key) const {
  if (!value(key).is_string()) wrong_type(key, "a string");
  return value(key).get_ref<const std::string&>();
}

std::vector<std::int64_t> JsonObject::integers(const char* key, std::int64_t min,
                                               std::int64_t max) const {
  std::vector<std::int64_t> numbers;
  if (!has(key)) return numbers;
  if (!value(key).is_array()) wrong_type(key, "a list of whole numbers");
  for (const json& item : value(key)) numbers.push_back(checked(key, item, min, max));
  return numbers;
}

std::vector<std::int64_t> JsonObject::integer_or_integers(const char* key, std::int64_t min,
                                                          std::int64_t max) const {
  if (has(key) && !value(key).is_array()) return {integer(key, min, max)};
  return integers(key, min, max);
}

std::vector<std::string> JsonObject::strings(const char* key) const {
  std::vector<std::string> texts;
  if (!has(key)) return texts;
  if (!value(key).is_array()) wrong_type(key, "a list of strings");
  for (const json& item : value(key)) {
    if (!item.is_string()) wrong_type(key, "a list of strings");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

JsonObject JsonObject::object(const char* key) const {
  if (!value(key).is_object()) wrong_type(key, "an object");
  return {file_, value(key), concat(prefix_, key, ".")};
}

}  // namespace moba
