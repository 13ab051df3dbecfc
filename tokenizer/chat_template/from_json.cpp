#include <limits>
#include <nlohmann/json.hpp>

#include "tokenizer/chat_template/value.h"

namespace moba::jinja {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 64;

// Builds values as the parser reads them, with the keys in their order.
class Builder {
 public:
  Value take() { return std::move(root_); }

  bool null() { return add(None{}); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(Json::number_integer_t value) { return add(std::int64_t{value}); }
  bool number_unsigned(Json::number_unsigned_t value) {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return add(static_cast<double>(value));
    }
    return add(static_cast<std::int64_t>(value));
  }
  bool number_float(Json::number_float_t value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(Text::from_user(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(true); }
  bool start_array(std::size_t) { return open(false); }
  bool end_object() {
    Dict dict;
    dict.key_origin = 'u';
    Open& top = open_.back();
    for (auto& [key, value] : top.items) dict.set(key, std::move(value));
    open_.pop_back();
    return add(std::move(dict));
  }
  bool end_array() {
    List list;
    for (auto& [key, value] : open_.back().items) list.push_back(std::move(value));
    open_.pop_back();
    return add(std::move(list));
  }
  bool key(std::string& name) {
    open_.back().key = name;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) { return false; }

 private:
  struct Open {
    std::string key;
    std::vector<std::pair<std::string, Value>> items;
  };

  bool open(bool) {
    if (open_.size() >= kMaxDepth) return false;
    open_.emplace_back();
    return true;
  }
  bool add(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back().items.emplace_back(open_.back().key, std::move(value));
    }
    return true;
  }

  Value root_;
  std::vector<Open> open_;
};

}  // namespace

Value from_json(std::string_view json) {
  Builder builder;
  if (!Json::sax_parse(json, &builder)) {
    throw TemplateError("the template's input is not JSON, or nested too deep");
  }
  return builder.take();
}

}  // namespace moba::jinja
