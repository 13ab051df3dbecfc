#include "tokenizer/chat_template/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "tokenizer/utf8.h"

namespace moba::jinja {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {
    // One newline at the end does not count.
    if (!source_.empty() && source_.back() == '\n') source_.remove_suffix(1);
    if (!source_.empty() && source_.back() == '\r') source_.remove_suffix(1);
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const std::size_t open = find_open();
      if (open == std::string_view::npos) {
        add_text(source_.substr(at_), false, false);
        at_ = source_.size();
        break;
      }
      const char kind = source_[open + 1];
      const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
      // "{{-1}}" strips too, as in Jinja.
      add_text(source_.substr(at_, open - at_), sign == '-', kind != '{' && sign != '+');
      count_lines(at_, open);
      at_ = open + 2 + (sign == '-' || sign == '+' ? 1 : 0);
      if (kind == '#') {
        skip_comment();
      } else if (kind == '%' && skip_raw(open)) {
        continue;
      } else {
        lex_tag(kind == '{');
      }
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void count_lines(std::size_t begin, std::size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(begin),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
  }

  std::size_t find_open() const {
    for (std::size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{') continue;
      const char next = source_[i + 1];
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return std::string_view::npos;
  }

  // `strip`: all white space before the tag goes; `lstrip`: that between the start of its line and
  // it.
  void add_text(std::string_view text, bool strip, bool lstrip) {
    if (strip) {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (lstrip) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
      const bool blank =
          std::all_of(text.begin() + static_cast<std::ptrdiff_t>(begin), text.end(), is_space);
      if (blank && (begin > 0 || line_starting_)) text = text.substr(0, begin);
    }
    if (!text.empty()) add(TokenKind::kText, std::string(text));
  }

  // After "%}", "}}" or "#}": `strip` takes all white space, `trim` one newline.
  void after_tag(bool strip, bool trim) {
    line_starting_ = false;
    const std::size_t begin = at_;
    if (strip) {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
    } else if (trim && at_ < source_.size()) {
      if (source_.substr(at_, 2) == "\r\n") {
        at_ += 2;
      } else if (source_[at_] == '\n') {
        ++at_;
      }
    }
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
    count_lines(begin, at_);
  }

  void skip_comment() {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string_view::npos) fail_at(line_, "a comment has no end");
    const char sign = close > at_ ? source_[close - 1] : ' ';
    count_lines(at_, close);
    at_ = close + 2;
    after_tag(sign == '-', sign != '+');
  }

  // {% raw %} ... {% endraw %}. False if the tag is another one.
  bool skip_raw(std::size_t open) {
    std::size_t i = at_;
    const auto skip_spaces = [&] {
      while (i < source_.size() && is_space(source_[i])) ++i;
    };
    skip_spaces();
    if (source_.substr(i, 3) != "raw") return false;
    i += 3;
    skip_spaces();
    const bool strip = i < source_.size() && source_[i] == '-';
    if (strip) ++i;
    if (source_.substr(i, 2) != "%}") return false;
    at_ = i + 2;
    count_lines(open, at_);
    after_tag(strip, true);
    const std::size_t begin = at_;
    for (std::size_t close = source_.find("{%", at_); close != std::string_view::npos;
         close = source_.find("{%", close + 2)) {
      i = close + 2;
      const bool strip_before = i < source_.size() && source_[i] == '-';
      if (strip_before || (i < source_.size() && source_[i] == '+')) ++i;
      skip_spaces();
      if (source_.substr(i, 6) != "endraw") continue;
      i += 6;
      skip_spaces();
      const bool strip_after = i < source_.size() && source_[i] == '-';
      if (strip_after) ++i;
      if (source_.substr(i, 2) != "%}") continue;
      add_text(source_.substr(begin, close - begin), strip_before, !strip_before);
      count_lines(begin, i + 2);
      at_ = i + 2;
      after_tag(strip_after, true);
      return true;
    }
    fail_at(line_, "raw has no end");
  }

  void lex_tag(bool print) {
    add(print ? TokenKind::kPrintBegin : TokenKind::kTagBegin, "");
    const std::string_view close = print ? "}}" : "%}";
    int braces = 0;
    for (;;) {
      while (at_ < source_.size() && is_space(source_[at_])) {
        if (source_[at_] == '\n') ++line_;
        ++at_;
      }
      if (at_ >= source_.size()) fail_at(line_, "a tag has no end");
      const std::string_view rest = source_.substr(at_);
      const bool sign = rest[0] == '-' || rest[0] == '+';
      if (braces == 0 && rest.substr(sign ? 1 : 0, 2) == close) {
        at_ += sign ? 3 : 2;
        add(print ? TokenKind::kPrintEnd : TokenKind::kTagEnd, "");
        return after_tag(rest[0] == '-', !print && rest[0] != '+');
      }
      if (rest[0] == '{') ++braces;
      if (rest[0] == '}' && braces > 0) --braces;
      lex_token(rest);
    }
  }

  void lex_token(std::string_view rest) {
    const char c = rest[0];
    std::size_t length = 1;
    if (is_name_start(c)) {
      while (length < rest.size() && (is_name_start(rest[length]) || is_digit(rest[length]))) {
        ++length;
      }
      add(TokenKind::kName, std::string(rest.substr(0, length)));
    } else if (is_digit(c)) {
      length = lex_number(rest);
    } else if (c == '"' || c == '\'') {
      length = lex_string(rest);
    } else {
      constexpr std::array<std::string_view, 6> kTwo = {"==", "!=", "<=", ">=", "//", "**"};
      if (std::find(kTwo.begin(), kTwo.end(), rest.substr(0, 2)) != kTwo.end()) length = 2;
      constexpr std::string_view kOne = "+-*/%~<>()[]{},:.|=";
      if (length == 1 && kOne.find(c) == std::string_view::npos) {
        fail_at(line_, std::string("unexpected character '") + c + "'");
      }
      add(TokenKind::kOperator, std::string(rest.substr(0, length)));
    }
    at_ += length;
  }

  std::size_t lex_number(std::string_view rest) {
    std::size_t length = 0;
    const auto digits = [&] {
      while (length < rest.size() && (is_digit(rest[length]) || rest[length] == '_')) ++length;
    };
    digits();
    bool is_float = false;
    if (length + 1 < rest.size() && rest[length] == '.' && is_digit(rest[length + 1])) {
      is_float = true;
      ++length;
      digits();
    }
    std::string text(rest.substr(0, length));
    std::erase(text, '_');
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    return length;
  }

  std::size_t lex_string(std::string_view rest) {
    std::string text;
    std::size_t i = 1;
    for (; i < rest.size() && rest[i] != rest[0]; ++i) {
      if (rest[i] == '\n') ++line_;
      if (rest[i] != '\\' || i + 1 >= rest.size()) {
        text += rest[i];
        continue;
      }
      i = append_escape(rest, i + 1, text);
    }
    if (i >= rest.size()) fail_at(line_, "a string has no end");
    add(TokenKind::kString, std::move(text));
    return i + 1;
  }

  // The escape at rest[i], after its backslash; returns the index of its last character.
  std::size_t append_escape(std::string_view rest, std::size_t i, std::string& text) {
    constexpr std::string_view kNames = "ntr\\'\"abfv0";
    constexpr std::string_view kValues("\n\t\r\\'\"\a\b\f\v\0", 11);
    const char c = rest[i];
    if (const std::size_t known = kNames.find(c); known != std::string_view::npos) {
      text += kValues[known];
      return i;
    }
    const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (c != '\n') text += {'\\', c};  // a backslash before a newline joins lines
      return i;
    }
    std::uint32_t code = 0;
    for (std::size_t k = 1; k <= digits; ++k) {
      const char digit = i + k < rest.size() ? rest[i + k] : ' ';
      if (std::isxdigit(static_cast<unsigned char>(digit)) == 0) fail_at(line_, "bad \\ escape");
      code = code * 16 + static_cast<std::uint32_t>(
                             is_digit(digit)
                                 ? digit - '0'
                                 : std::tolower(static_cast<unsigned char>(digit)) - 'a' + 10);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail_at(line_, "bad \\ escape");
    utf8::append(text, static_cast<char32_t>(code));
    return i + digits;
  }

  std::string_view source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

void fail_at(int line, const std::string& message) {
  throw TemplateError("line " + std::to_string(line) + ": " + message);
}

std::vector<Token> tokenize(std::string_view source) {
  if (!utf8::is_valid(source)) throw TemplateError("the template is not UTF-8");
  return Lexer(source).run();
}

}  // namespace moba::jinja
