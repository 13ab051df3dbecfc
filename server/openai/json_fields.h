// Reads the fields of a JSON body with errors that name the field.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/openai/api_error.h"

namespace moba::openai {

// Parses a whole text whose top level must be an object, nested at most 64 deep. Takes time and
// memory linear in the text (about 16 times its bytes at worst). Throws ApiError (400) that says
// where the text is wrong.
Json parse_object(std::string_view text);

// "a string", "an object" ... for messages.
std::string kind_of(const Json& value);

// The members of an object. A member that is null counts as absent. Every reader throws ApiError
// (400, the field as param) for a value of another type or out of range. Borrows the object.
class Fields {
 public:
  // `path` stands before the names in messages: "stream_options" gives "stream_options.x".
  explicit Fields(const Json& object, std::string path = "");

  // The value, or null. Marks the name as known.
  const Json* find(std::string_view name);
  // The names are known and have no effect.
  void ignore(std::initializer_list<std::string_view> names);
  // Members that nobody asked for, in order of name.
  std::vector<std::string> unknown() const;

  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> string(std::string_view name);
  // A whole number in [least, most]; 2.0 counts as one.
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least, std::int64_t most);
  std::optional<int> integer(std::string_view name);
  std::optional<float> number(std::string_view name);
  // A string counts as a list of one.
  std::optional<std::vector<std::string>> strings(std::string_view name);
  std::optional<std::vector<std::int32_t>> token_ids(std::string_view name);

  // The field's name in messages.
  std::string full_name(std::string_view name) const;

 private:
  const Json& object_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
};

// Whole numbers and finite numbers of a value that stands at `name`; throw as Fields does.
std::int64_t to_integer(const Json& value, const std::string& name, std::int64_t least,
                        std::int64_t most);
float to_number(const Json& value, const std::string& name);
std::vector<std::int32_t> to_token_ids(const Json& value, const std::string& name);

}  // namespace moba::openai
