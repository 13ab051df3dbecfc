// Regular expressions of tokenizer.json are written for Oniguruma (Ruby syntax), ours run in PCRE2.
// The two agree on most of the syntax and differ quietly in some of it; this translates what
// differs.
#pragma once

#include <string>
#include <string_view>

namespace moba {

// A PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE) that matches what `pattern` matches
// in Oniguruma:
//   \s \S      Unicode White_Space (PCRE2's also holds U+180E)
//   \w         Alphabetic, M, Nd, Pc and six Latin-1 characters (PCRE2's is L, N, _)
//   \p{Han}    the script (PCRE2's is the script extensions)
//   {,n}       means {0,n}
//   (?m:...)   is PCRE2's (?s:...)
//   \v \uHHHH  are spelled \x{...}
// Not translated: in (?i:ss) Oniguruma also finds the one character U+00DF. Throws
// std::runtime_error, naming the construct, for what has no equal form here: nested classes,
// && in a class, \S \D \W in a class, word boundaries, backreferences, named groups, {n,m}+ and
// {n}?, options that are not at the start of a group.
std::string oniguruma_to_pcre2(std::string_view pattern);

// A pattern that matches exactly `text`.
std::string quote_for_pcre2(std::string_view text);

}  // namespace moba
