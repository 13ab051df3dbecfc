// Filters, tests and methods of the template language.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/chat_template/value.h"

namespace moba::jinja {

// What a run may cost. Throws TemplateError where it is used up.
class Budget {
 public:
  Budget(std::int64_t steps, std::int64_t bytes) : steps_(steps), bytes_(bytes) {}
  void step(std::size_t count = 1);
  // Of text that is made.
  void make_bytes(std::size_t count);

 private:
  std::int64_t steps_;
  std::int64_t bytes_;
};

// What {{ }} prints.
Text print(const Value& value, Budget& budget);

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  // By position or by name; null if it is not given.
  const Value* find(std::size_t position, std::string_view name) const;
};

// The items of a list, the characters of a string, the keys of a dict. Throws for others.
List items_of(const Value& value, Budget& budget);

// A member of a dict, an element of a list or a character of a string; undefined if there is none.
Value member_of(const Value& value, const Value& key, Budget& budget);

// value[begin:end:step]; undefined bounds are open.
Value slice_of(const Value& value, const Value& begin, const Value& end, const Value& step,
               Budget& budget);

// The operators but "and", "or" and "not".
Value apply_operator(std::string_view op, const Value& left, const Value& right, Budget& budget);

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments,
                   Budget& budget);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments,
                Budget& budget);
Value call_method(const Value& object, const std::string& name, const Arguments& arguments,
                  Budget& budget);

// Text functions that filters and methods share. `chars` null: white space.
Text strip(const Text& text, const Value* chars, bool left, bool right);
Text replace_all(const Text& text, const Text& from, const Text& to, std::int64_t count,
                 Budget& budget);
enum class Case { kUpper, kLower, kTitle, kCapitalize };
Text change_case(const Text& text, Case kind);
const Text& text_of(const Value& value, const char* who);

}  // namespace moba::jinja
