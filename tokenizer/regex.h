// A compiled regular expression over UTF-8: PCRE2 with Unicode properties and its just-in-time
// compiler.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moba {

// Immutable after construction; any number of threads may search with it, each with its own
// Matcher.
class Regex {
 public:
  // `pattern` is in PCRE2's syntax (regex_syntax.h translates). Throws std::runtime_error with one
  // line that names the offset of the error; it names no file.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

 private:
  friend class RegexMatcher;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Finds matches of one expression in one text, left to right, without overlap. Belongs to one
// thread. Borrows both.
class RegexMatcher {
 public:
  // `text` must be valid UTF-8.
  RegexMatcher(const Regex& regex, std::string_view text);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // The next match as [begin, end) in bytes; false if there is none. An empty match right after the
  // match before it is passed over. Throws std::runtime_error if the expression needs more
  // backtracking than a bound linear in the text.
  bool next(std::size_t& begin, std::size_t& end);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moba
