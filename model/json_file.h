// Reads the JSON files of a checkpoint, which may come from anywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "device/check.h"

namespace moba {

// `text` in quotes for an error line: control characters become '?', and what exceeds 120 bytes is
// cut.
std::string in_quotes(std::string_view text);

// The JSON object in a file. Throws Error with one line naming the file if it is missing, over 32
// MB, not JSON, not an object, nested deeper than 64, or has the same key twice in one object.
nlohmann::json load_json_object(const std::filesystem::path& path);

// Typed reading of an object's keys. A key that is absent or null has no value. Every accessor
// throws Error naming the file, the key, what the value must be and what it is. Borrows the object.
class JsonObject {
 public:
  // `prefix` comes before the keys in errors: "rope_scaling." for an object within another.
  JsonObject(std::string file, const nlohmann::json& object, std::string prefix = "");

  bool has(const char* key) const;
  // Also true for null.
  bool contains(const char* key) const { return object_->contains(key); }

  // A whole number in [min, max]; 3.0 is none.
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t min,
                          std::int64_t max) const;
  // A finite number, whole or not.
  double number(const char* key) const;
  double number_or(const char* key, double fallback) const;
  bool boolean_or(const char* key, bool fallback) const;
  const std::string& string(const char* key) const;
  // Whole numbers in [min, max]; absent: empty.
  std::vector<std::int64_t> integers(const char* key, std::int64_t min, std::int64_t max) const;
  // As integers(), but one number may stand for a list of one.
  std::vector<std::int64_t> integer_or_integers(const char* key, std::int64_t min,
                                                std::int64_t max) const;
  // Absent: empty.
  std::vector<std::string> strings(const char* key) const;
  // An object within this one, which must be there.
  JsonObject object(const char* key) const;

  // Throws Error: "FILE: KEY ...".
  template <typename... Args>
  [[noreturn]] void fail(const char* key, const Args&... args) const {
    throw Error(concat(file_, ": ", prefix_, key, " ", args...));
  }

 private:
  const nlohmann::json& value(const char* key) const;
  [[noreturn]] void wrong_type(const char* key, const char* expected) const;
  std::int64_t checked(const char* key, const nlohmann::json& value, std::int64_t min,
                       std::int64_t max) const;

  std::string file_;
  const nlohmann::json* object_;
  std::string prefix_;
};

}  // namespace moba
