#include "tokenizer/regex_syntax.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "tokenizer/json_view.h"

namespace moba {

namespace {

// Unicode White_Space, a stable property, as the inside of a class.
constexpr std::string_view kWhiteSpace =
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
// The six Latin-1 digits and fractions are an oddity of Oniguruma's table for the first 256
// characters.
constexpr std::string_view kWord =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool is_general_category(std::string_view name) {
  static constexpr std::array<std::string_view, 37> kNames = {
      "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
      "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
      "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (!done()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape(/*in_class=*/false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        brace();
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  bool done() const { return at_ >= in_.size(); }
  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(std::size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }
  [[noreturn]] static void refuse(std::string_view construct) {
    throw std::runtime_error("the regular expression uses " + printable(construct) +
                             ", which is not supported");
  }

  void property() {
    const bool negated = in_[at_ + 1] == 'P';
    const std::size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) {
      refuse("\\p without {name}");
    }
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    const bool inverted = name.starts_with('^');
    if (inverted) name.remove_prefix(1);
    if (name.empty() ||
        !std::all_of(name.begin(), name.end(), [](char c) { return is_alpha(c) || c == '_'; })) {
      refuse(in_.substr(at_, close + 1 - at_));
    }
    out_.append(negated != inverted ? "\\P{" : "\\p{");
    if (!is_general_category(name)) out_.append("sc:");
    out_.append(name).append("}");
    at_ = close + 1;
  }

  void hex_escape() {
    // \xHH, \x{H...} or \uHHHH
    std::size_t from = at_ + 2;
    std::size_t to = from;
    if (in_[at_ + 1] == 'x' && from < in_.size() && in_[from] == '{') {
      ++from;
      to = from;
      while (to < in_.size() && is_hex(in_[to])) ++to;
      if (to == from || to >= in_.size() || in_[to] != '}') refuse("a malformed \\x{...}");
      out_.append("\\x{").append(in_.substr(from, to - from)).append("}");
      at_ = to + 1;
      return;
    }
    const std::size_t most = in_[at_ + 1] == 'x' ? 2 : 4;
    while (to < in_.size() && to - from < most && is_hex(in_[to])) ++to;
    if (to == from || (most == 4 && to - from != 4)) refuse("a malformed \\x or \\u");
    // In Oniguruma \x80 and above is a byte of an encoded character.
    if (most == 2 && to - from == 2 && in_[from] >= '8') refuse("a byte above \\x7f");
    out_.append("\\x{").append(in_.substr(from, to - from)).append("}");
    at_ = to;
  }

  void escape(bool in_class) {
    if (at_ + 1 >= in_.size()) refuse("a lone \\ at its end");
    const char c = in_[at_ + 1];
    const auto emit = [this](std::string_view text) {
      out_.append(text);
      at_ += 2;
    };
    const auto set = [&](std::string_view inside, bool negated) {
      if (in_class && negated) refuse(std::string("\\") + c + " inside a class");
      if (in_class) return emit(inside);
      emit(std::string(negated ? "[^" : "[").append(inside).append("]"));
    };
    switch (c) {
      case 'p':
      case 'P':
        return property();
      case 'x':
      case 'u':
        return hex_escape();
      case 's':
      case 'S':
        return set(kWhiteSpace, c == 'S');
      case 'w':
      case 'W':
        return set(kWord, c == 'W');
      case 'd':
      case 'D':
        return set("\\p{Nd}", c == 'D');
      case 'v':
        return emit("\\x{0b}");
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        return copy(2);
      case 'A':
      case 'z':
      case 'Z':
        if (in_class) refuse(std::string("\\") + c + " inside a class");
        return copy(2);
      default:
        if (is_alpha(c) || is_digit(c)) refuse(std::string("\\") + c);
        if (static_cast<unsigned char>(c) >= 0x80) {  // an escaped character stands for itself
          ++at_;
          return;
        }
        return copy(2);
    }
  }

  void character_class() {
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]")) refuse("an empty class");
    while (!done() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        escape(/*in_class=*/true);
      } else if (in_[at_] == '[') {
        refuse("[ inside a class");
      } else if (next_is("&&")) {
        refuse("&& inside a class");
      } else {
        copy(1);
      }
    }
    if (done()) refuse("a class without ]");
    copy(1);
  }

  void group() {
    if (next_is("(*")) refuse("(*");  // a verb in PCRE2, an error in Oniguruma
    if (!next_is("(?")) return copy(1);
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (next_is(opening)) return copy(opening.size());
    }
    // Options: (?i) at the start of the pattern, (?i:...) anywhere. Elsewhere (?i) reaches
    // differently far in the two languages.
    const bool at_start = at_ == 0;
    std::size_t end = at_ + 2;
    std::string options;
    while (end < in_.size() && (in_[end] == 'i' || in_[end] == 'm' || in_[end] == '-')) {
      options.push_back(in_[end] == 'm' ? 's' : in_[end]);
      ++end;
    }
    const bool closes = end < in_.size() && (in_[end] == ':' || (in_[end] == ')' && at_start));
    if (!closes || options.empty()) refuse(in_.substr(at_, end + 1 - at_));
    out_.append("(?").append(options).append(1, in_[end]);
    at_ = end + 1;
  }

  void brace() {
    std::size_t end = at_ + 1;
    const std::size_t low = end;
    while (end < in_.size() && is_digit(in_[end])) ++end;
    const std::string_view from = in_.substr(low, end - low);
    const bool comma = end < in_.size() && in_[end] == ',';
    if (comma) ++end;
    const std::size_t high = end;
    while (end < in_.size() && is_digit(in_[end])) ++end;
    const std::string_view to = in_.substr(high, end - high);
    const bool closed = end < in_.size() && in_[end] == '}';
    if (!closed || (from.empty() && to.empty())) {
      out_.append("\\{");  // no quantifier: a literal brace
      ++at_;
      return;
    }
    out_.append("{").append(from.empty() ? "0" : from);
    if (comma) out_.append(",").append(to);
    out_.append("}");
    at_ = end + 1;
    if (next_is("+")) refuse("{n,m}+");
    if (!comma && next_is("?")) refuse("{n}?");
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

std::string quote_for_pcre2(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = is_alpha(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80;
    if (!plain) out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

}  // namespace moba
