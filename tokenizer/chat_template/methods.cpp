#include <utf8proc.h>

#include <algorithm>
#include <functional>
#include <map>

#include "tokenizer/chat_template/builtins.h"
#include "tokenizer/utf8.h"

namespace moba::jinja {
namespace {

bool is_space(char32_t c) {
  const auto code = static_cast<utf8proc_int32_t>(c);
  const utf8proc_category_t category = utf8proc_category(code);
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || c == 0x85 ||
         category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool is_letter(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

std::int64_t limit_of(const Value* value) {
  return value == nullptr || value->is_none() ? -1 : value->as_int();
}

Value split(const Text& text, const Arguments& arguments, Budget& budget) {
  const Value* separator = arguments.find(0, "sep");
  std::int64_t limit = limit_of(arguments.find(1, "maxsplit"));
  List parts;
  budget.make_bytes(text.size());
  const auto add = [&](std::size_t begin, std::size_t end) {
    budget.make_bytes(64);
    parts.emplace_back(text.substr(begin, end - begin));
  };
  if (separator != nullptr && !separator->is_none()) {
    const std::string& by = text_of(*separator, "split").bytes;
    if (by.empty()) throw TemplateError("split: an empty separator");
    std::size_t begin = 0;
    for (std::size_t at = text.bytes.find(by); at != std::string::npos && limit != 0;
         at = text.bytes.find(by, begin), --limit) {
      add(begin, at);
      begin = at + by.size();
    }
    add(begin, text.size());
    return parts;
  }
  const auto skip = [&](std::size_t at, bool spaces) {
    while (at < text.size()) {
      const utf8::Decoded next = utf8::decode(std::string_view(text.bytes).substr(at));
      if (is_space(next.code_point) != spaces) break;
      at += static_cast<std::size_t>(next.length);
    }
    return at;
  };
  for (std::size_t at = skip(0, true); at < text.size();) {
    std::size_t end = limit == 0 ? text.size() : skip(at, false);
    if (limit-- == 0) {
      parts.emplace_back(strip(text.substr(at), nullptr, false, true));
      break;
    }
    add(at, end);
    at = skip(end, true);
  }
  return parts;
}

Value split_from_end(const Text& text, const Arguments& arguments, Budget& budget) {
  const std::int64_t limit = limit_of(arguments.find(1, "maxsplit"));
  List parts =
      split(text, {{arguments.positional.empty() ? Value(None{}) : arguments.positional[0]}, {}},
            budget)
          .list();
  const Value* separator = arguments.find(0, "sep");
  if (limit < 0 || static_cast<std::int64_t>(parts.size()) <= limit + 1) return parts;
  if (separator == nullptr || separator->is_none()) throw TemplateError("rsplit needs a separator");
  const std::size_t joined = parts.size() - static_cast<std::size_t>(limit);
  Text head;
  for (std::size_t i = 0; i < joined; ++i) {
    if (i > 0) head.append(separator->text());
    head.append(parts[i].text());
  }
  List out{head};
  out.insert(out.end(), parts.begin() + static_cast<std::ptrdiff_t>(joined), parts.end());
  return out;
}

Value split_lines(const Text& text, const Arguments&, Budget& budget) {
  List parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.bytes.find('\n', begin), text.size());
    const bool cr = end > begin && text.bytes[end - 1] == '\r';
    budget.make_bytes(64 + end - begin);
    parts.emplace_back(text.substr(begin, end - begin - (cr ? 1 : 0)));
    begin = end + 1;
  }
  return parts;
}

// One text, or a list of them of which any will do.
Value has_end(const Text& text, const Arguments& arguments, bool start) {
  const Value* given = arguments.find(0, "");
  if (given == nullptr) throw TemplateError("startswith and endswith need a text");
  const auto matches = [&](const Value& value) {
    const std::string& end = text_of(value, "startswith").bytes;
    if (end.size() > text.size()) return false;
    return text.bytes.compare(start ? 0 : text.size() - end.size(), end.size(), end) == 0;
  };
  if (!given->is_list()) return matches(*given);
  return std::any_of(given->list().begin(), given->list().end(), matches);
}

Value join(const Text& between, const Arguments& arguments, Budget& budget) {
  const Value* list = arguments.find(0, "");
  if (list == nullptr) throw TemplateError("join needs a list");
  return apply_filter("join", *list, {{Value(between)}, {}}, budget);
}

bool all_of(const Text& text, bool (*holds)(char32_t)) {
  for (std::size_t at = 0; at < text.size();) {
    const utf8::Decoded next = utf8::decode(std::string_view(text.bytes).substr(at));
    if (!holds(next.code_point)) return false;
    at += static_cast<std::size_t>(next.length);
  }
  return text.size() > 0;
}

Value call_on_text(const Text& text, const std::string& name, const Arguments& arguments,
                   Budget& budget) {
  const Value* first = arguments.find(0, "");
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    budget.make_bytes(text.size());
    return strip(text, first, name != "rstrip", name != "lstrip");
  }
  if (name == "split") return split(text, arguments, budget);
  if (name == "rsplit") return split_from_end(text, arguments, budget);
  if (name == "splitlines") return split_lines(text, arguments, budget);
  if (name == "startswith" || name == "endswith") {
    return has_end(text, arguments, name == "startswith");
  }
  if (name == "join") return join(text, arguments, budget);
  for (const char* filter : {"upper", "lower", "title", "capitalize", "replace"}) {
    if (name == filter) return apply_filter(name, text, arguments, budget);
  }
  if (name == "find" || name == "count" || name == "index") {
    if (first == nullptr) throw TemplateError(name + " needs a text");
    const std::string& part = text_of(*first, "find").bytes;
    budget.step(1 + text.size() / 16);
    if (name == "count") {
      std::int64_t count = 0;
      for (std::size_t at = text.bytes.find(part); at != std::string::npos && !part.empty();
           at = text.bytes.find(part, at + part.size())) {
        ++count;
      }
      return count;
    }
    const std::size_t at = text.bytes.find(part);
    if (at == std::string::npos && name == "index") throw TemplateError("index: not found");
    if (at == std::string::npos) return std::int64_t{-1};
    return static_cast<std::int64_t>(
               character_offsets(std::string_view(text.bytes).substr(0, at)).size()) -
           1;
  }
  if (name == "removeprefix" || name == "removesuffix") {
    if (first == nullptr) throw TemplateError(name + " needs a text");
    const bool start = name == "removeprefix";
    if (!has_end(text, arguments, start).truthy()) return text;
    const std::size_t size = text_of(*first, "removeprefix").size();
    return start ? text.substr(size) : text.substr(0, text.size() - size);
  }
  if (name == "isdigit") return all_of(text, [](char32_t c) { return c >= '0' && c <= '9'; });
  if (name == "isspace") return all_of(text, is_space);
  if (name == "isalpha") return all_of(text, is_letter);
  throw TemplateError("a string has no method " + name);
}

Value call_on_dict(const Value& object, const std::string& name, const Arguments& arguments,
                   Budget& budget) {
  const Dict& dict = object.dict();
  if (name == "items") return apply_filter("items", object, {}, budget);
  if (name == "keys") return items_of(object, budget);
  if (name == "values") {
    List out;
    for (const auto& [key, value] : dict.items) out.push_back(value);
    budget.step(out.size());
    return out;
  }
  if (name == "get") {
    const Value* key = arguments.find(0, "key");
    const Value* otherwise = arguments.find(1, "default");
    if (key == nullptr) throw TemplateError("get needs a key");
    const Value* found = key->is_string() ? dict.find(key->text().bytes) : nullptr;
    if (found != nullptr) return *found;
    return otherwise == nullptr ? Value(None{}) : *otherwise;
  }
  throw TemplateError("a dict has no method " + name);
}

Value call_on_list(const Value& object, const std::string& name, const Arguments& arguments,
                   Budget& budget) {
  const Value* item = arguments.find(0, "");
  if ((name == "index" || name == "count") && item != nullptr) {
    budget.step(static_cast<std::size_t>(object.extent().weight));
    const List& list = object.list();
    if (name == "count") {
      return static_cast<std::int64_t>(std::count_if(
          list.begin(), list.end(), [&](const Value& other) { return equal(other, *item); }));
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (equal(list[i], *item)) return static_cast<std::int64_t>(i);
    }
    throw TemplateError("index: not found");
  }
  throw TemplateError("a list has no method " + name);
}

using Test = bool (*)(const Value& value, const Value* argument, Budget& budget);

bool compare(std::string_view op, const Value& a, const Value* b, Budget& budget) {
  if (b == nullptr) throw TemplateError("a comparison needs something to compare with");
  return apply_operator(op, a, *b, budget).truthy();
}

const std::map<std::string, Test, std::less<>>& tests() {
  static const std::map<std::string, Test, std::less<>> kTests = {
      {"defined", [](const Value& v, const Value*, Budget&) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, const Value*, Budget&) { return v.is_undefined(); }},
      {"none", [](const Value& v, const Value*, Budget&) { return v.is_none(); }},
      {"string", [](const Value& v, const Value*, Budget&) { return v.is_string(); }},
      {"number", [](const Value& v, const Value*, Budget&) { return v.is_number(); }},
      {"integer", [](const Value& v, const Value*, Budget&) { return v.is_int(); }},
      {"float", [](const Value& v, const Value*, Budget&) { return v.is_float(); }},
      {"boolean", [](const Value& v, const Value*, Budget&) { return v.is_bool(); }},
      {"true", [](const Value& v, const Value*, Budget&) { return v.is_bool() && v.truthy(); }},
      {"false", [](const Value& v, const Value*, Budget&) { return v.is_bool() && !v.truthy(); }},
      {"mapping", [](const Value& v, const Value*, Budget&) { return v.is_dict(); }},
      {"callable", [](const Value& v, const Value*, Budget&) { return v.is_callable(); }},
      {"iterable",
       [](const Value& v, const Value*, Budget&) {
         return v.is_list() || v.is_dict() || v.is_string() || v.is_undefined();
       }},
      {"sequence",
       [](const Value& v, const Value*, Budget&) {
         return v.is_list() || v.is_dict() || v.is_string() || v.is_undefined();
       }},
      {"odd", [](const Value& v, const Value*, Budget&) { return v.as_int() % 2 != 0; }},
      {"even", [](const Value& v, const Value*, Budget&) { return v.as_int() % 2 == 0; }},
      {"divisibleby",
       [](const Value& v, const Value* a, Budget& budget) {
         return a != nullptr && apply_operator("%", v, *a, budget).as_double() == 0;
       }},
      {"equalto", [](const Value& v, const Value* a, Budget& b) { return compare("==", v, a, b); }},
      {"eq", [](const Value& v, const Value* a, Budget& b) { return compare("==", v, a, b); }},
      {"ne", [](const Value& v, const Value* a, Budget& b) { return compare("!=", v, a, b); }},
      {"lt", [](const Value& v, const Value* a, Budget& b) { return compare("<", v, a, b); }},
      {"le", [](const Value& v, const Value* a, Budget& b) { return compare("<=", v, a, b); }},
      {"gt", [](const Value& v, const Value* a, Budget& b) { return compare(">", v, a, b); }},
      {"ge", [](const Value& v, const Value* a, Budget& b) { return compare(">=", v, a, b); }},
      {"in", [](const Value& v, const Value* a, Budget& b) { return compare("in", v, a, b); }},
  };
  return kTests;
}

}  // namespace

const Text& text_of(const Value& value, const char* who) {
  if (value.is_string()) return value.text();
  throw TemplateError(std::string(who) + " needs a string, not " + value.kind());
}

Text strip(const Text& text, const Value* chars, bool left, bool right) {
  const auto goes = [&](std::string_view character, char32_t code_point) {
    if (chars == nullptr || chars->is_none()) return is_space(code_point);
    return text_of(*chars, "strip").bytes.find(character) != std::string::npos;
  };
  std::size_t begin = 0;
  std::size_t end = text.size();
  const std::string_view bytes = text.bytes;
  while (left && begin < end) {
    const utf8::Decoded next = utf8::decode(bytes.substr(begin));
    if (!goes(bytes.substr(begin, static_cast<std::size_t>(next.length)), next.code_point)) break;
    begin += static_cast<std::size_t>(next.length);
  }
  while (right && begin < end) {
    std::size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(bytes[last]) & 0xC0) == 0x80) --last;
    const utf8::Decoded next = utf8::decode(bytes.substr(last));
    if (!goes(bytes.substr(last, end - last), next.code_point)) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

Text replace_all(const Text& text, const Text& from, const Text& to, std::int64_t count,
                 Budget& budget) {
  if (from.size() == 0) throw TemplateError("replace: an empty text");
  Text out;
  std::size_t begin = 0;
  for (std::size_t at = text.bytes.find(from.bytes); at != std::string::npos && count != 0;
       at = text.bytes.find(from.bytes, begin), --count) {
    budget.make_bytes(at - begin + to.size());
    out.append(text.substr(begin, at - begin));
    out.append(to);
    begin = at + from.size();
  }
  budget.make_bytes(text.size() - begin);
  out.append(text.substr(begin));
  return out;
}

Text change_case(const Text& text, Case kind) {
  Text out;
  bool word_starts = true;
  for (std::size_t at = 0; at < text.size();) {
    const utf8::Decoded next = utf8::decode(std::string_view(text.bytes).substr(at));
    const auto code = static_cast<utf8proc_int32_t>(next.code_point);
    const bool up = kind == Case::kUpper || (kind == Case::kTitle && word_starts) ||
                    (kind == Case::kCapitalize && at == 0);
    std::string piece;
    utf8::append(piece,
                 static_cast<char32_t>(up ? utf8proc_toupper(code) : utf8proc_tolower(code)));
    out.bytes += piece;
    out.origin.append(piece.size(), text.origin[at]);
    word_starts = !is_letter(next.code_point) && next.code_point != '\'';
    at += static_cast<std::size_t>(next.length);
  }
  return out;
}

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments,
                Budget& budget) {
  budget.step();
  static const std::map<std::string, const char*, std::less<>> kOperators = {
      {"==", "eq"}, {"!=", "ne"}, {"<", "lt"}, {"<=", "le"}, {">", "gt"}, {">=", "ge"}};
  const auto op = kOperators.find(name);
  const auto it = tests().find(op == kOperators.end() ? name : op->second);
  if (it == tests().end()) throw TemplateError("there is no test " + name);
  return it->second(value, arguments.find(0, ""), budget);
}

Value call_method(const Value& object, const std::string& name, const Arguments& arguments,
                  Budget& budget) {
  budget.step();
  if (object.is_string()) return call_on_text(object.text(), name, arguments, budget);
  if (object.is_dict()) return call_on_dict(object, name, arguments, budget);
  if (object.is_list()) return call_on_list(object, name, arguments, budget);
  if (object.is_undefined()) {
    throw TemplateError("'" + object.undefined().name + "' is undefined");
  }
  throw TemplateError(std::string(object.kind()) + " has no method " + name);
}

}  // namespace moba::jinja
