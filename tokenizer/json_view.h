// JSON files of a checkpoint, read with errors that name the file and the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moba {

// Whole content of a file. Throws std::runtime_error naming the file if it is missing, not a
// regular file, empty, or larger than `max_bytes`.
std::string read_tokenizer_file(const std::filesystem::path& path, std::uintmax_t max_bytes);

// Largest tokenizer file that is read: several times the largest in use (about 35 MB).
inline constexpr std::uintmax_t kMaxTokenizerFileBytes = std::uintmax_t{256} << 20;

// Makes a text safe to stand in a one-line message: control characters and invalid UTF-8 are
// escaped, text longer than about `max_bytes` is cut.
std::string printable(std::string_view text, std::size_t max_bytes = 80);

// printable(text) in double quotes.
std::string in_double_quotes(std::string_view text);

// Throws std::runtime_error("<file>: <key>: <message>") (without the key if it is empty).
[[noreturn]] void fail_in_file(const std::string& file, const std::string& key,
                               const std::string& message);

// A borrowed JSON value that remembers the file and the path of keys that led to it
// ("model.vocab"). Valid while the document and the file name are.
class JsonView {
 public:
  JsonView(const nlohmann::json& value, const std::string& file, std::string key)
      : value_(&value), file_(&file), key_(std::move(key)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& file() const { return *file_; }
  const std::string& key() const { return key_; }
  [[noreturn]] void fail(const std::string& message) const { fail_in_file(*file_, key_, message); }

  bool is_string() const { return value_->is_string(); }
  bool is_object() const { return value_->is_object(); }

  // Member of an object; nullopt if it is absent or null. Throws if this is no object.
  std::optional<JsonView> find(std::string_view name) const;
  // The same, but absence is an error.
  JsonView at(std::string_view name) const;

  // These throw, naming the key, if the value is of another type.
  const std::string& as_string() const;
  bool as_bool() const;
  // An integer in [min, max].
  std::int64_t as_int(std::int64_t min, std::int64_t max) const;
  // Elements of an array.
  std::vector<JsonView> elements() const;
  // Members of an object with their names.
  std::vector<std::pair<std::string, JsonView>> members() const;

  // Optional members with a default for absent or null.
  bool bool_or(std::string_view name, bool fallback) const;
  std::string string_or(std::string_view name, std::string_view fallback) const;

 private:
  const nlohmann::json* value_;
  const std::string* file_;
  std::string key_;
};

// Parses a whole text whose top level must be an object; nesting is limited to 64 levels. `file` is
// for the messages.
nlohmann::json parse_json_object(const std::string& text, const std::string& file);

}  // namespace moba
