// Values of the template language.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace moba::jinja {

// A template that cannot be read or run; what() is one line.
class TemplateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// UTF-8 text that remembers byte for byte where it comes from: the template ('t'), whose special
// tokens are meant, or the conversation ('u'), whose special tokens are text.
struct Text {
  std::string bytes;
  std::string origin;  // as many as bytes

  static Text from_template(std::string_view text) {
    return {std::string(text), std::string(text.size(), 't')};
  }
  static Text from_user(std::string_view text) {
    return {std::string(text), std::string(text.size(), 'u')};
  }
  std::size_t size() const { return bytes.size(); }
  Text substr(std::size_t begin, std::size_t count = std::string::npos) const {
    return {bytes.substr(begin, count), origin.substr(begin, count)};
  }
  void append(const Text& other) {
    bytes += other.bytes;
    origin += other.origin;
  }
};

class Value;
struct Dict;
using List = std::vector<Value>;
struct Undefined {
  std::string name;  // for messages
};
struct None {};
// Something to call: a macro or a function of the language, by an identifier of the evaluator.
struct Callable {
  enum class Kind { kRange, kNamespace, kDict, kRaise, kStrftime, kMacro };
  Kind kind;
  const void* macro = nullptr;  // of kMacro
};

// How large a value is: values may share parts, so walking through one can take exponentially
// longer than making it.
struct Extent {
  int depth = 0;
  std::int64_t weight = 1;  // parts, and 64 bytes of text for one
};
inline constexpr int kMaxDepth = 100;

// Strings, lists and dicts are shared, and never change but for a namespace's attributes.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(Undefined undefined)
      : data_(std::move(undefined)) {}         // NOLINT(google-explicit-constructor)
  Value(None none) : data_(none) {}            // NOLINT(google-explicit-constructor)
  Value(bool value) : data_(value) {}          // NOLINT(google-explicit-constructor)
  Value(std::int64_t value) : data_(value) {}  // NOLINT(google-explicit-constructor)
  Value(double value) : data_(value) {}        // NOLINT(google-explicit-constructor)
  Value(Callable value) : data_(value) {}      // NOLINT(google-explicit-constructor)
  Value(Text text)                             // NOLINT(google-explicit-constructor)
      : data_(std::make_shared<const Text>(std::move(text))) {}
  // Throw TemplateError for values that are nested more than kMaxDepth deep.
  Value(List list);  // NOLINT(google-explicit-constructor)
  Value(Dict dict);  // NOLINT(google-explicit-constructor)
  // A literal of this program.
  static Value literal(std::string_view text) { return Text::from_template(text); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<std::int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_string() const { return std::holds_alternative<std::shared_ptr<const Text>>(data_); }
  bool is_list() const { return std::holds_alternative<std::shared_ptr<const ListData>>(data_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<Dict>>(data_); }
  bool is_callable() const { return std::holds_alternative<Callable>(data_); }

  const Undefined& undefined() const { return std::get<Undefined>(data_); }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  const List& list() const { return std::get<std::shared_ptr<const ListData>>(data_)->items; }
  Dict& dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  const Callable& callable() const { return std::get<Callable>(data_); }
  // Of a number; true counts as 1.
  std::int64_t as_int() const;
  double as_double() const;

  bool truthy() const;
  // A namespace counts as too deep to be part of anything, so that nothing contains itself.
  Extent extent() const;
  // "a string", "a list" ... for messages.
  const char* kind() const;

 private:
  struct ListData {
    List items;
    Extent extent;
  };
  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const ListData>, std::shared_ptr<Dict>, Callable>
      data_;
};

// Keeps the order of its keys, which are strings.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  std::unordered_map<std::string, std::size_t> index;
  bool is_namespace = false;
  char key_origin = 't';  // of the keys as texts
  Extent extent{1, 1};

  const Value* find(const std::string& key) const;
  void set(const std::string& key, Value value);
};

bool equal(const Value& a, const Value& b);
// Numbers and strings only; throws TemplateError for others.
bool less(const Value& a, const Value& b);

// What {{ }} prints. `quote`: strings as Python's repr() writes them.
Text to_text(const Value& value, bool quote = false);

// As Python's json.dumps(ensure_ascii=False); `indent` < 0: on one line.
Text to_json(const Value& value, int indent);

// Values of a JSON text, whose strings are the user's. Throws TemplateError.
Value from_json(std::string_view json);

// Byte offsets of the characters of UTF-8 text, and its size at the end.
std::vector<std::size_t> character_offsets(std::string_view text);

}  // namespace moba::jinja
