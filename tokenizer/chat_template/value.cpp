#include "tokenizer/chat_template/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace moba::jinja {
namespace {

void append_literal(Text& out, std::string_view text) { out.append(Text::from_template(text)); }

// Makes a value part of another.
void include(const Value& part, Extent& whole) {
  constexpr std::int64_t kMaxWeight = std::int64_t{1} << 40;
  const Extent extent = part.extent();
  whole.depth = std::max(whole.depth, extent.depth + 1);
  whole.weight = std::min(whole.weight + extent.weight, kMaxWeight);
  if (whole.depth > kMaxDepth) throw TemplateError("values are nested too deep");
}

// The shortest text that reads back as the same number, with ".0" where it looks like an integer.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// With escapes for control characters, the quote and the backslash.
void append_quoted(Text& out, const Text& text, char quote, bool json) {
  const std::string mark(1, quote);
  append_literal(out, mark);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text.bytes[i];
    const auto byte = static_cast<unsigned char>(c);
    std::string piece;
    if (c == quote || c == '\\') {
      piece = {'\\', c};
    } else if (c == '\n') {
      piece = "\\n";
    } else if (c == '\t') {
      piece = "\\t";
    } else if (c == '\r') {
      piece = "\\r";
    } else if (json && c == '\b') {
      piece = "\\b";
    } else if (json && c == '\f') {
      piece = "\\f";
    } else if (byte < 0x20 || (!json && byte == 0x7F)) {
      constexpr std::string_view kHex = "0123456789abcdef";
      piece = json ? "\\u00" : "\\x";
      piece += kHex[byte >> 4];
      piece += kHex[byte & 15];
    } else {
      piece += c;
    }
    out.bytes += piece;
    out.origin.append(piece.size(), text.origin[i]);
  }
  append_literal(out, mark);
}

void append_text(Text& out, const Value& value, bool quote, int depth) {
  if (depth > kMaxDepth) throw TemplateError("values nested too deep to print");
  if (value.is_string()) {
    if (!quote) return out.append(value.text());
    const bool single = value.text().bytes.find('\'') == std::string::npos ||
                        value.text().bytes.find('"') != std::string::npos;
    return append_quoted(out, value.text(), single ? '\'' : '"', false);
  }
  if (value.is_undefined()) return;
  if (value.is_none()) return append_literal(out, "None");
  if (value.is_bool()) return append_literal(out, value.truthy() ? "True" : "False");
  if (value.is_int()) return append_literal(out, std::to_string(value.as_int()));
  if (value.is_float()) return append_literal(out, float_text(value.as_double()));
  if (value.is_callable()) return append_literal(out, "<function>");
  bool first = true;
  const auto comma = [&] {
    if (!first) append_literal(out, ", ");
    first = false;
  };
  if (value.is_list()) {
    append_literal(out, "[");
    for (const Value& item : value.list()) {
      comma();
      append_text(out, item, true, depth + 1);
    }
    return append_literal(out, "]");
  }
  const Dict& dict = value.dict();
  append_literal(out, "{");
  for (const auto& [key, item] : dict.items) {
    comma();
    append_text(out, Text{key, std::string(key.size(), dict.key_origin)}, true, depth + 1);
    append_literal(out, ": ");
    append_text(out, item, true, depth + 1);
  }
  append_literal(out, "}");
}

class JsonWriter {
 public:
  explicit JsonWriter(int indent) : indent_(indent) {}

  void write(const Value& value, int depth) {
    if (depth > kMaxDepth) throw TemplateError("tojson: values nested too deep");
    if (value.is_string()) {
      append_quoted(out_, value.text(), '"', true);
    } else if (value.is_none()) {
      append_literal(out_, "null");
    } else if (value.is_bool()) {
      append_literal(out_, value.truthy() ? "true" : "false");
    } else if (value.is_int()) {
      append_literal(out_, std::to_string(value.as_int()));
    } else if (value.is_float()) {
      const double number = value.as_double();
      append_literal(out_, std::isnan(number)   ? "NaN"
                           : std::isinf(number) ? (number > 0 ? "Infinity" : "-Infinity")
                                                : float_text(number));
    } else if (value.is_list()) {
      write_items('[', ']', value.list().size(), depth,
                  [&](std::size_t i) { write(value.list()[i], depth + 1); });
    } else if (value.is_dict()) {
      const Dict& dict = value.dict();
      write_items('{', '}', dict.items.size(), depth, [&](std::size_t i) {
        const std::string& key = dict.items[i].first;
        append_quoted(out_, Text{key, std::string(key.size(), dict.key_origin)}, '"', true);
        append_literal(out_, ": ");
        write(dict.items[i].second, depth + 1);
      });
    } else {
      throw TemplateError(std::string("tojson of ") + value.kind());
    }
  }
  Text take() { return std::move(out_); }

 private:
  template <typename F>
  void write_items(char open, char close, std::size_t count, int depth, F&& item) {
    append_literal(out_, std::string(1, open));
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) append_literal(out_, indent_ < 0 ? ", " : ",");
      new_line(depth + 1);
      item(i);
    }
    if (count > 0) new_line(depth);
    append_literal(out_, std::string(1, close));
  }
  void new_line(int depth) {
    if (indent_ < 0) return;
    std::string line = "\n";
    line.append(static_cast<std::size_t>(indent_) * static_cast<std::size_t>(depth), ' ');
    append_literal(out_, line);
  }

  const int indent_;
  Text out_;
};

}  // namespace

Value::Value(List list) {
  ListData data{std::move(list), {1, 1}};
  for (const Value& item : data.items) include(item, data.extent);
  data_ = std::make_shared<const ListData>(std::move(data));
}

Value::Value(Dict dict) : data_(std::make_shared<Dict>(std::move(dict))) {}

Extent Value::extent() const {
  if (is_string()) return {0, 1 + static_cast<std::int64_t>(text().size() / 64)};
  if (is_list()) return std::get<std::shared_ptr<const ListData>>(data_)->extent;
  if (is_dict()) return dict().is_namespace ? Extent{kMaxDepth, 1} : dict().extent;
  return {};
}

std::int64_t Value::as_int() const {
  if (const auto* number = std::get_if<std::int64_t>(&data_)) return *number;
  if (const auto* flag = std::get_if<bool>(&data_)) return *flag ? 1 : 0;
  throw TemplateError(std::string("expected an integer, got ") + kind());
}

double Value::as_double() const {
  if (const auto* number = std::get_if<double>(&data_)) return *number;
  return static_cast<double>(as_int());
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_float()) return as_double() != 0;
  if (is_number()) return as_int() != 0;
  if (is_string()) return text().size() > 0;
  if (is_list()) return !list().empty();
  if (is_dict()) return dict().is_namespace || !dict().items.empty();
  return true;
}

const char* Value::kind() const {
  if (is_undefined()) return "something undefined";
  if (is_none()) return "none";
  if (is_bool()) return "a boolean";
  if (is_int()) return "an integer";
  if (is_float()) return "a float";
  if (is_string()) return "a string";
  if (is_list()) return "a list";
  if (is_dict()) return "a dict";
  return "a function";
}

const Value* Dict::find(const std::string& key) const {
  const auto it = index.find(key);
  return it == index.end() ? nullptr : &items[it->second].second;
}

void Dict::set(const std::string& key, Value value) {
  include(value, extent);
  const auto [it, added] = index.emplace(key, items.size());
  if (added) {
    items.emplace_back(key, std::move(value));
  } else {
    items[it->second].second = std::move(value);
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float() ? a.as_double() == b.as_double() : a.as_int() == b.as_int();
  }
  if (a.is_string() && b.is_string()) return a.text().bytes == b.text().bytes;
  if (a.is_list() && b.is_list()) {
    if (a.list().size() != b.list().size()) return false;
    for (std::size_t i = 0; i < a.list().size(); ++i) {
      if (!equal(a.list()[i], b.list()[i])) return false;
    }
    return true;
  }
  if (a.is_dict() && b.is_dict()) {
    if (a.dict().items.size() != b.dict().items.size()) return false;
    for (const auto& [key, value] : a.dict().items) {
      const Value* other = b.dict().find(key);
      if (other == nullptr || !equal(value, *other)) return false;
    }
    return true;
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float() ? a.as_double() < b.as_double() : a.as_int() < b.as_int();
  }
  if (a.is_string() && b.is_string()) return a.text().bytes < b.text().bytes;
  throw TemplateError(std::string("cannot compare ") + a.kind() + " with " + b.kind());
}

Text to_text(const Value& value, bool quote) {
  Text out;
  append_text(out, value, quote, 0);
  return out;
}

Text to_json(const Value& value, int indent) {
  JsonWriter writer(indent);
  writer.write(value, 0);
  return writer.take();
}

std::vector<std::size_t> character_offsets(std::string_view text) {
  std::vector<std::size_t> offsets;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

}  // namespace moba::jinja
