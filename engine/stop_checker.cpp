#include "engine/stop_checker.h"

#include <algorithm>

namespace moba {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

}  // namespace

StopChecker::StopChecker(const std::vector<std::string>& stop, bool include_stop_str_in_output)
    : include_(include_stop_str_in_output) {
  patterns_.reserve(stop.size());
  for (const std::string& text : stop) {
    Pattern pattern;
    pattern.text = text;
    pattern.borders = {0, 0};
    patterns_.push_back(std::move(pattern));
  }
}

void StopChecker::step(Pattern& pattern, char c) {
  while (pattern.state > 0 && pattern.text[pattern.state] != c) {
    pattern.state = pattern.borders[pattern.state];
  }
  if (pattern.text[pattern.state] == c) ++pattern.state;
  // The table reaches as far as the longest match so far; one more entry follows from those before.
  if (pattern.state == pattern.borders.size()) {
    std::size_t border = pattern.borders.back();
    const char last = pattern.text[pattern.state - 1];
    while (border > 0 && pattern.text[border] != last) border = pattern.borders[border];
    if (pattern.text[border] == last) ++border;
    pattern.borders.push_back(static_cast<std::uint32_t>(border));
  }
}

bool StopChecker::push(std::string_view text, bool may_stop, std::string& out) {
  if (patterns_.empty()) {
    out.append(text);
    return false;
  }
  for (const char c : text) {
    held_.push_back(c);
    int match = -1;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
      Pattern& pattern = patterns_[i];
      step(pattern, c);
      if (pattern.state == pattern.text.size()) {
        const std::size_t length = pattern.text.size();
        if (may_stop &&
            (match < 0 || length > patterns_[static_cast<std::size_t>(match)].text.size())) {
          match = static_cast<int>(i);
        }
        pattern.state = pattern.borders[pattern.state];
      }
    }
    if (match >= 0) {
      matched_ = match;
      const std::size_t length = patterns_[static_cast<std::size_t>(match)].text.size();
      out.append(held_, held_begin_, held_.size() - held_begin_ - (include_ ? 0 : length));
      held_.clear();
      held_begin_ = 0;
      return true;
    }
  }
  std::size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.state);
  std::size_t shown = held_.size() - hold;
  while (shown > held_begin_ && shown < held_.size() && is_continuation(held_[shown])) --shown;
  out.append(held_, held_begin_, shown - held_begin_);
  held_begin_ = shown;
  // Moved to the front only once as much has been shown as is held: constant cost per byte.
  if (held_begin_ >= held_.size() - held_begin_) {
    held_.erase(0, held_begin_);
    held_begin_ = 0;
  }
  return false;
}

void StopChecker::finish(std::string& out) {
  out.append(held_, held_begin_);
  held_.clear();
  held_begin_ = 0;
}

}  // namespace moba
