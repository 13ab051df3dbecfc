#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenizer/chat_template/builtins.h"

namespace moba::jinja {
namespace {

[[noreturn]] void no_operator(std::string_view op, const Value& a, const Value& b) {
  throw TemplateError("cannot compute " + std::string(a.kind()) + " " + std::string(op) + " " +
                      b.kind());
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

[[noreturn]] void too_large() { throw TemplateError("a number is too large"); }

Value integer_operator(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    const bool overflow = op == "+"   ? __builtin_add_overflow(a, b, &result)
                          : op == "-" ? __builtin_sub_overflow(a, b, &result)
                                      : __builtin_mul_overflow(a, b, &result);
    if (overflow) too_large();
    return result;
  }
  if (op == "**") {
    if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
    if (b > 64 && a != 0 && a != 1 && a != -1) too_large();
    result = 1;
    for (std::int64_t i = 0; i < (a == -1 ? b % 2 : std::min<std::int64_t>(b, 64)); ++i) {
      if (__builtin_mul_overflow(result, a, &result)) too_large();
    }
    return result;
  }
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1) too_large();
  if (op == "//") return floor_div(a, b);
  return a - b * floor_div(a, b);  // %
}

Value float_operator(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return std::pow(a, b);
  if (b == 0) throw TemplateError("division by zero");
  if (op == "/") return a / b;
  if (op == "//") return std::floor(a / b);
  return a - b * std::floor(a / b);
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (container.is_string()) {
    return container.text().bytes.find(text_of(item, "in").bytes) != std::string::npos;
  }
  if (container.is_dict()) {
    return item.is_string() && container.dict().find(item.text().bytes) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (!container.is_list()) no_operator("in", item, container);
  budget.step(static_cast<std::size_t>(container.extent().weight));
  return std::any_of(container.list().begin(), container.list().end(),
                     [&](const Value& other) { return equal(item, other); });
}

Value repeat(const Text& text, std::int64_t count, Budget& budget) {
  Text out;
  for (std::int64_t i = 0; i < count && text.size() > 0; ++i) {
    budget.make_bytes(text.size());
    out.append(text);
  }
  return out;
}

// An index from the end where it is negative.
std::int64_t from_end(std::int64_t index, std::int64_t size) {
  return index < 0 ? index + size : index;
}

struct SliceBounds {
  std::int64_t begin;
  std::int64_t step;
  std::int64_t count;
};

// As Python's slice.indices().
SliceBounds slice_bounds(const Value& begin, const Value& end, const Value& step,
                         std::int64_t size) {
  const auto given = [](const Value& value) { return !value.is_undefined() && !value.is_none(); };
  const std::int64_t by = given(step) ? step.as_int() : 1;
  if (by == 0) throw TemplateError("a slice with step 0");
  const std::int64_t low = by > 0 ? 0 : -1;
  const std::int64_t high = by > 0 ? size : size - 1;
  const auto bound = [&](const Value& value, std::int64_t otherwise) {
    if (!given(value)) return otherwise;
    const std::int64_t index = std::clamp<std::int64_t>(value.as_int(), -size - 1, size + 1);
    return std::clamp(from_end(index, size), low, high);
  };
  const std::int64_t first = bound(begin, by > 0 ? low : high);
  const std::int64_t last = bound(end, by > 0 ? high : low);
  const std::int64_t span = by > 0 ? last - first : first - last;
  const std::int64_t stride = by > 0 ? by
                              : by == std::numeric_limits<std::int64_t>::min()
                                  ? std::numeric_limits<std::int64_t>::max()
                                  : -by;
  return {first, by, span <= 0 ? 0 : (span - 1) / stride + 1};
}

}  // namespace

void Budget::step(std::size_t count) {
  steps_ -= static_cast<std::int64_t>(count);
  if (steps_ < 0) throw TemplateError("the template runs for too long");
}

void Budget::make_bytes(std::size_t count) {
  step(1 + count / 64);
  bytes_ -= static_cast<std::int64_t>(count);
  if (bytes_ < 0) throw TemplateError("the template makes too much text");
}

Text print(const Value& value, Budget& budget) {
  budget.step(static_cast<std::size_t>(value.extent().weight));
  Text text = to_text(value);
  budget.make_bytes(text.size());
  return text;
}

const Value* Arguments::find(std::size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [keyword, value] : keywords) {
    if (keyword == name) return &value;
  }
  return nullptr;
}

Value apply_operator(std::string_view op, const Value& left, const Value& right, Budget& budget) {
  if (op == "==" || op == "!=") {
    budget.step(static_cast<std::size_t>(std::min(left.extent().weight, right.extent().weight)));
    return equal(left, right) == (op == "==");
  }
  if (op == "<") return less(left, right);
  if (op == ">") return less(right, left);
  if (op == "<=") return !less(right, left);
  if (op == ">=") return !less(left, right);
  if (op == "in") return contains(right, left, budget);
  if (op == "~") {
    Text out = print(left, budget);
    out.append(print(right, budget));
    return out;
  }
  if (left.is_undefined() || right.is_undefined()) {
    const Undefined& undefined = left.is_undefined() ? left.undefined() : right.undefined();
    throw TemplateError("'" + undefined.name + "' is undefined");
  }
  if (left.is_number() && right.is_number()) {
    return left.is_float() || right.is_float()
               ? float_operator(op, left.as_double(), right.as_double())
               : integer_operator(op, left.as_int(), right.as_int());
  }
  if (op == "+" && left.is_string() && right.is_string()) {
    budget.make_bytes(left.text().size() + right.text().size());
    Text out = left.text();
    out.append(right.text());
    return out;
  }
  if (op == "+" && left.is_list() && right.is_list()) {
    List out = left.list();
    out.insert(out.end(), right.list().begin(), right.list().end());
    budget.make_bytes(out.size() * sizeof(Value));
    return out;
  }
  if (op == "*" && left.is_string() && right.is_int()) {
    return repeat(left.text(), right.as_int(), budget);
  }
  no_operator(op, left, right);
}

List items_of(const Value& value, Budget& budget) {
  if (value.is_undefined()) return {};
  List out;
  if (value.is_list()) {
    budget.step(value.list().size());
    return value.list();
  }
  if (value.is_string()) {
    const Text& text = value.text();
    const std::vector<std::size_t> offsets = character_offsets(text.bytes);
    budget.make_bytes(offsets.size() * 64);
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
      out.emplace_back(text.substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
    return out;
  }
  if (!value.is_dict()) throw TemplateError(std::string(value.kind()) + " cannot be iterated");
  const Dict& dict = value.dict();
  for (const auto& [key, item] : dict.items) {
    budget.make_bytes(key.size());
    out.emplace_back(Text{key, std::string(key.size(), dict.key_origin)});
  }
  return out;
}

Value member_of(const Value& value, const Value& key, Budget& budget) {
  if (value.is_undefined()) {
    throw TemplateError("'" + value.undefined().name + "' is undefined");
  }
  const Undefined missing{to_text(key).bytes};
  if (value.is_dict()) {
    if (!key.is_string()) return missing;
    const Value* found = value.dict().find(key.text().bytes);
    return found == nullptr ? Value(missing) : *found;
  }
  if (!key.is_int()) return missing;
  if (value.is_list()) {
    const auto size = static_cast<std::int64_t>(value.list().size());
    const std::int64_t index = from_end(key.as_int(), size);
    return index < 0 || index >= size ? Value(missing)
                                      : value.list()[static_cast<std::size_t>(index)];
  }
  if (value.is_string()) {
    const Text& text = value.text();
    budget.step(1 + text.size() / 64);
    const std::vector<std::size_t> offsets = character_offsets(text.bytes);
    const auto size = static_cast<std::int64_t>(offsets.size()) - 1;
    const std::int64_t index = from_end(key.as_int(), size);
    if (index < 0 || index >= size) return missing;
    const auto i = static_cast<std::size_t>(index);
    return text.substr(offsets[i], offsets[i + 1] - offsets[i]);
  }
  return missing;
}

Value slice_of(const Value& value, const Value& begin, const Value& end, const Value& step,
               Budget& budget) {
  if (value.is_list()) {
    const List& list = value.list();
    const SliceBounds bounds =
        slice_bounds(begin, end, step, static_cast<std::int64_t>(list.size()));
    List out;
    budget.make_bytes(static_cast<std::size_t>(bounds.count) * sizeof(Value));
    for (std::int64_t i = 0; i < bounds.count; ++i) {
      out.push_back(list[static_cast<std::size_t>(bounds.begin + i * bounds.step)]);
    }
    return out;
  }
  const Text& text = text_of(value, "a slice");
  const std::vector<std::size_t> offsets = character_offsets(text.bytes);
  const SliceBounds bounds =
      slice_bounds(begin, end, step, static_cast<std::int64_t>(offsets.size()) - 1);
  budget.make_bytes(text.size());
  Text out;
  for (std::int64_t i = 0; i < bounds.count; ++i) {
    const auto at = static_cast<std::size_t>(bounds.begin + i * bounds.step);
    out.append(text.substr(offsets[at], offsets[at + 1] - offsets[at]));
  }
  return out;
}

}  // namespace moba::jinja
