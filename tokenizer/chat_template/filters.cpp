#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "tokenizer/chat_template/builtins.h"

namespace moba::jinja {
namespace {

using Filter = Value (*)(const Value& value, const Arguments& arguments, Budget& budget);

Value length(const Value& value, const Arguments&, Budget& budget) {
  if (value.is_list()) return static_cast<std::int64_t>(value.list().size());
  if (value.is_dict()) return static_cast<std::int64_t>(value.dict().items.size());
  if (value.is_undefined()) return std::int64_t{0};
  const Text& text = text_of(value, "length");
  budget.step(1 + text.size() / 64);
  return static_cast<std::int64_t>(character_offsets(text.bytes).size()) - 1;
}

Value first(const Value& value, const Arguments&, Budget& budget) {
  const List list = items_of(value, budget);
  return list.empty() ? Value(Undefined{"first of nothing"}) : list.front();
}

Value last(const Value& value, const Arguments&, Budget& budget) {
  const List list = items_of(value, budget);
  return list.empty() ? Value(Undefined{"last of nothing"}) : list.back();
}

Value join(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* given = arguments.find(0, "d");
  const Value* attribute = arguments.find(1, "attribute");
  const Text between = given == nullptr ? Text{} : print(*given, budget);
  Text out;
  bool any = false;
  for (const Value& item : items_of(value, budget)) {
    const Text piece =
        print(attribute == nullptr ? item : member_of(item, *attribute, budget), budget);
    budget.make_bytes(between.size());
    if (any) out.append(between);
    out.append(piece);
    any = true;
  }
  return out;
}

Value default_value(const Value& value, const Arguments& arguments, Budget&) {
  const Value* otherwise = arguments.find(0, "default_value");
  const Value* boolean = arguments.find(1, "boolean");
  const bool use =
      value.is_undefined() || (boolean != nullptr && boolean->truthy() && !value.truthy());
  if (!use) return value;
  return otherwise == nullptr ? Value::literal("") : *otherwise;
}

Value tojson(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* indent = arguments.find(0, "indent");
  if (const Value* named = arguments.find(99, "indent")) indent = named;
  const std::int64_t by = indent == nullptr || indent->is_none() ? -1 : indent->as_int();
  if (by > 16) throw TemplateError("tojson: the indent is too large");
  budget.step(static_cast<std::size_t>(value.extent().weight));
  Text out = to_json(value, static_cast<int>(std::max<std::int64_t>(by, -1)));
  budget.make_bytes(out.size());
  return out;
}

Value to_int(const Value& value, const Arguments& arguments, Budget&) {
  const Value* otherwise = arguments.find(0, "default");
  if (value.is_float()) {
    const double number = value.as_double();
    if (std::abs(number) < 9e18) return static_cast<std::int64_t>(number);
  } else if (value.is_number()) {
    return value.as_int();
  } else if (value.is_string()) {
    const std::string text = strip(value.text(), nullptr, true, true).bytes;
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (!text.empty() && end == text.c_str() + text.size() && std::abs(number) < 9e18) {
      return static_cast<std::int64_t>(number);
    }
  }
  return otherwise == nullptr ? Value(std::int64_t{0}) : *otherwise;
}

Value to_float(const Value& value, const Arguments& arguments, Budget&) {
  const Value* otherwise = arguments.find(0, "default");
  if (value.is_number()) return value.as_double();
  if (value.is_string()) {
    const std::string text = strip(value.text(), nullptr, true, true).bytes;
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (!text.empty() && end == text.c_str() + text.size()) return number;
  }
  return otherwise == nullptr ? Value(0.0) : *otherwise;
}

Value absolute(const Value& value, const Arguments&, Budget& budget) {
  if (value.is_float()) return std::abs(value.as_double());
  return value.as_int() < 0 ? apply_operator("-", std::int64_t{0}, value, budget) : value;
}

Value pairs(const Value& value, const Arguments&, Budget& budget) {
  if (value.is_undefined()) return List{};
  if (!value.is_dict()) throw TemplateError(std::string("items of ") + value.kind());
  List out;
  const List keys = items_of(value, budget);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    out.emplace_back(List{keys[i], value.dict().items[i].second});
  }
  return out;
}

Value sorted(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* reverse = arguments.find(0, "reverse");
  const Value* attribute = arguments.find(2, "attribute");
  List list = items_of(value, budget);
  budget.step(list.size() * 8);
  const auto key = [&](const Value& item) {
    return attribute == nullptr ? item : member_of(item, *attribute, budget);
  };
  std::stable_sort(list.begin(), list.end(),
                   [&](const Value& a, const Value& b) { return less(key(a), key(b)); });
  if (reverse != nullptr && reverse->truthy()) std::reverse(list.begin(), list.end());
  return list;
}

Value dictsort(const Value& value, const Arguments& arguments, Budget& budget) {
  List list = pairs(value, arguments, budget).list();
  budget.step(list.size() * 8);
  std::stable_sort(list.begin(), list.end(), [](const Value& a, const Value& b) {
    return change_case(a.list()[0].text(), Case::kLower).bytes <
           change_case(b.list()[0].text(), Case::kLower).bytes;
  });
  return list;
}

Value unique(const Value& value, const Arguments&, Budget& budget) {
  List out;
  for (const Value& item : items_of(value, budget)) {
    for (const Value& other : out) {
      budget.step(static_cast<std::size_t>(std::min(other.extent().weight, item.extent().weight)));
    }
    if (std::none_of(out.begin(), out.end(), [&](const Value& o) { return equal(o, item); })) {
      out.push_back(item);
    }
  }
  return out;
}

Value reversed(const Value& value, const Arguments&, Budget& budget) {
  if (value.is_string()) return slice_of(value, Value(), Value(), std::int64_t{-1}, budget);
  List list = items_of(value, budget);
  std::reverse(list.begin(), list.end());
  return list;
}

Value sum(const Value& value, const Arguments&, Budget& budget) {
  Value total = std::int64_t{0};
  for (const Value& item : items_of(value, budget)) {
    total = apply_operator("+", total, item, budget);
  }
  return total;
}

Value indent(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* width = arguments.find(0, "width");
  const Value* first_too = arguments.find(1, "first");
  const Value* blank_too = arguments.find(2, "blank");
  std::string space(4, ' ');
  if (width != nullptr && width->is_string()) {
    space = width->text().bytes;
  } else if (width != nullptr) {
    const std::int64_t count = width->as_int();
    if (count < 0 || count > 1000) throw TemplateError("indent: the width is out of range");
    space = std::string(static_cast<std::size_t>(count), ' ');
  }
  const Text& text = text_of(value, "indent");
  Text out;
  bool line_begins = first_too != nullptr && first_too->truthy();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool blank = text.bytes[i] == '\n';
    if (line_begins && (!blank || (blank_too != nullptr && blank_too->truthy()))) {
      budget.make_bytes(space.size());
      out.append(Text::from_template(space));
    }
    out.bytes += text.bytes[i];
    out.origin += text.origin[i];
    line_begins = blank;
  }
  budget.make_bytes(text.size());
  return out;
}

Value round_number(const Value& value, const Arguments& arguments, Budget&) {
  const Value* precision = arguments.find(0, "precision");
  const double scale =
      std::pow(10.0, precision == nullptr ? 0.0 : static_cast<double>(precision->as_int()));
  return std::nearbyint(value.as_double() * scale) / scale;
}

Arguments rest_of(const Arguments& arguments, std::size_t begin) {
  Arguments rest;
  for (std::size_t i = begin; i < arguments.positional.size(); ++i) {
    rest.positional.push_back(arguments.positional[i]);
  }
  return rest;
}

Value map_items(const Value& value, const Arguments& arguments, Budget& budget) {
  const Value* attribute = arguments.find(99, "attribute");
  const Value* otherwise = arguments.find(99, "default");
  List out;
  for (const Value& item : items_of(value, budget)) {
    if (attribute != nullptr) {
      Value member = member_of(item, *attribute, budget);
      out.push_back(member.is_undefined() && otherwise != nullptr ? *otherwise : member);
    } else {
      const Value* name = arguments.find(0, "");
      if (name == nullptr) throw TemplateError("map needs a filter or an attribute");
      out.push_back(apply_filter(text_of(*name, "map").bytes, item, rest_of(arguments, 1), budget));
    }
  }
  return out;
}

// select, reject, selectattr and rejectattr.
Value select_items(const Value& value, const Arguments& arguments, Budget& budget,
                   bool by_attribute, bool wanted) {
  const std::size_t skip = by_attribute ? 1 : 0;
  const Value* attribute = by_attribute ? arguments.find(0, "attribute") : nullptr;
  if (by_attribute && attribute == nullptr) throw TemplateError("selectattr needs an attribute");
  const Value* test = arguments.find(skip, "");
  List out;
  for (const Value& item : items_of(value, budget)) {
    const Value subject = by_attribute ? member_of(item, *attribute, budget) : item;
    const bool holds = test == nullptr ? subject.truthy()
                                       : apply_test(text_of(*test, "select").bytes, subject,
                                                    rest_of(arguments, skip + 1), budget);
    if (holds == wanted) out.push_back(item);
  }
  return out;
}

Value with_case(const Value& value, Case kind, Budget& budget) {
  return change_case(print(value, budget), kind);
}

const std::map<std::string, Filter, std::less<>>& filters() {
  static const std::map<std::string, Filter, std::less<>> kFilters = {
      {"length", length},
      {"count", length},
      {"first", first},
      {"last", last},
      {"join", join},
      {"default", default_value},
      {"d", default_value},
      {"tojson", tojson},
      {"int", to_int},
      {"float", to_float},
      {"abs", absolute},
      {"items", pairs},
      {"sort", sorted},
      {"dictsort", dictsort},
      {"unique", unique},
      {"reverse", reversed},
      {"sum", sum},
      {"indent", indent},
      {"round", round_number},
      {"map", map_items},
      {"trim",
       [](const Value& value, const Arguments& arguments, Budget& budget) -> Value {
         return strip(print(value, budget), arguments.find(0, "chars"), true, true);
       }},
      {"string",
       [](const Value& value, const Arguments&, Budget& budget) -> Value {
         return print(value, budget);
       }},
      {"safe", [](const Value& value, const Arguments&, Budget&) -> Value { return value; }},
      {"list",
       [](const Value& value, const Arguments&, Budget& budget) -> Value {
         return items_of(value, budget);
       }},
      {"upper", [](const Value& value, const Arguments&,
                   Budget& budget) { return with_case(value, Case::kUpper, budget); }},
      {"lower", [](const Value& value, const Arguments&,
                   Budget& budget) { return with_case(value, Case::kLower, budget); }},
      {"title", [](const Value& value, const Arguments&,
                   Budget& budget) { return with_case(value, Case::kTitle, budget); }},
      {"capitalize", [](const Value& value, const Arguments&,
                        Budget& budget) { return with_case(value, Case::kCapitalize, budget); }},
      {"replace",
       [](const Value& value, const Arguments& arguments, Budget& budget) -> Value {
         const Value* from = arguments.find(0, "old");
         const Value* to = arguments.find(1, "new");
         const Value* count = arguments.find(2, "count");
         if (from == nullptr || to == nullptr) throw TemplateError("replace needs two texts");
         return replace_all(print(value, budget), text_of(*from, "replace"),
                            text_of(*to, "replace"),
                            count == nullptr || count->is_none() ? -1 : count->as_int(), budget);
       }},
      {"select",
       [](const Value& value, const Arguments& arguments, Budget& budget) {
         return select_items(value, arguments, budget, false, true);
       }},
      {"reject",
       [](const Value& value, const Arguments& arguments, Budget& budget) {
         return select_items(value, arguments, budget, false, false);
       }},
      {"selectattr",
       [](const Value& value, const Arguments& arguments, Budget& budget) {
         return select_items(value, arguments, budget, true, true);
       }},
      {"rejectattr",
       [](const Value& value, const Arguments& arguments, Budget& budget) {
         return select_items(value, arguments, budget, true, false);
       }},
  };
  return kFilters;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments,
                   Budget& budget) {
  budget.step();
  const auto it = filters().find(name);
  if (it == filters().end()) throw TemplateError("there is no filter " + name);
  return it->second(value, arguments, budget);
}

}  // namespace moba::jinja
