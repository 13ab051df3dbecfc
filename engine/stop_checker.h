// Watches the text of an output for stop strings and says what of it may be shown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moba {

// Text goes in as it is decoded; text that can no longer become part of a stop string comes out.
// Cost is linear in the text, whatever the stop strings are: each is matched by Knuth, Morris and
// Pratt's automaton, whose table grows only as far as the text has matched. The first stop string
// to be complete ends the output; of several that end at the same byte, the one that began first.
class StopChecker {
 public:
  // The strings are not empty and outlive the checker.
  StopChecker(const std::vector<std::string>& stop, bool include_stop_str_in_output);

  // Adds decoded text (whole characters) and appends to `out` what has become safe to show. A
  // match counts only if `may_stop`. Returns true, once, when a stop string is complete: `out` then
  // ends before it, or after it if it is to be included; no more text may follow.
  bool push(std::string_view text, bool may_stop, std::string& out);

  // The output has ended otherwise: appends what was held back.
  void finish(std::string& out);

  // Index of the stop string that was found, or -1.
  int matched() const { return matched_; }

 private:
  struct Pattern {
    std::string_view text;
    std::vector<std::uint32_t> borders;  // borders[n]: longest proper border of the first n bytes
    std::size_t state = 0;               // bytes of the pattern that the text ends with
  };
  static void step(Pattern& pattern, char c);

  std::vector<Pattern> patterns_;
  bool include_;
  // Text not shown yet, from held_begin_: the longest beginning of a stop string that it ends with.
  std::string held_;
  std::size_t held_begin_ = 0;
  int matched_ = -1;
};

}  // namespace moba
