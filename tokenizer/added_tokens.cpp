#include "tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "tokenizer/utf8.h"

namespace moba {

namespace {

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// A letter, mark, decimal digit or connector punctuation: \w but for a few symbols that count as
// alphabetic.
bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;  // Join_Control
  }
}

// Byte offset of the character that ends at `end` > 0.
std::size_t start_of_last(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

AddedToken parse_added_token(const JsonView& entry) {
  AddedToken token;
  token.content = entry.at("content").as_string();
  token.special = entry.bool_or("special", false);
  token.normalized = entry.bool_or("normalized", !token.special);
  token.single_word = entry.bool_or("single_word", false);
  token.lstrip = entry.bool_or("lstrip", false);
  token.rstrip = entry.bool_or("rstrip", false);
  return token;
}

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens) {
  roots_.fill(-1);
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    std::int32_t node = -1;
    for (const char c : token.content) {
      const auto byte = static_cast<unsigned char>(c);
      std::int32_t next = node < 0 ? roots_[byte] : child(node, byte);
      if (next < 0) {
        next = static_cast<std::int32_t>(nodes_.size());
        nodes_.emplace_back();
        if (node < 0) {
          roots_[byte] = next;
        } else {
          Node& parent = nodes_[static_cast<std::size_t>(node)];
          edges_.push_back({byte, next, parent.first_edge});
          parent.first_edge = static_cast<std::int32_t>(edges_.size()) - 1;
        }
      }
      node = next;
    }
    std::int32_t& slot = nodes_[static_cast<std::size_t>(node)].token;
    if (slot >= 0) continue;
    slot = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
}

std::int32_t AddedTokenMatcher::child(std::int32_t node, unsigned char byte) const {
  std::int32_t edge = nodes_[static_cast<std::size_t>(node)].first_edge;
  while (edge >= 0) {
    const Edge& e = edges_[static_cast<std::size_t>(edge)];
    if (e.byte == byte) return e.target;
    edge = e.next;
  }
  return -1;
}

// Index of the longest token that `text` starts with, -1 if there is none.
std::int32_t AddedTokenMatcher::longest_match(std::string_view text) const {
  std::int32_t best = -1;
  std::int32_t node = roots_[static_cast<unsigned char>(text[0])];
  for (std::size_t i = 1; node >= 0; ++i) {
    const std::int32_t here = nodes_[static_cast<std::size_t>(node)].token;
    if (here >= 0) best = here;
    if (i == text.size()) break;
    node = child(node, static_cast<unsigned char>(text[i]));
  }
  return best;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::find(
    std::string_view text, bool parse_special_tokens,
    const std::vector<ByteRange>* special_ranges) const {
  std::size_t range = 0;  // the first that ends behind the place at hand
  const auto in_range = [&](std::size_t first, std::size_t last) {
    if (special_ranges == nullptr) return true;
    while (range < special_ranges->size() && (*special_ranges)[range].end <= first) ++range;
    return range < special_ranges->size() && (*special_ranges)[range].begin <= first &&
           last <= (*special_ranges)[range].end;
  };
  std::vector<Segment> out;
  std::size_t done = 0;
  std::size_t at = tokens_.empty() ? text.size() : 0;
  while (at < text.size()) {
    const std::int32_t match = longest_match(text.substr(at));
    if (match < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(match)];
    std::size_t begin = at;
    std::size_t end = at + token.content.size();
    at = end;
    if (token.special && !parse_special_tokens) continue;
    if (token.special && !in_range(begin, end)) {
      // Something shorter, or a later one, may still be there.
      at = begin + 1;
      continue;
    }
    if (token.single_word) {
      const bool word_before =
          begin > 0 &&
          is_word_character(utf8::decode(text.substr(start_of_last(text, begin))).code_point);
      const bool word_after =
          end < text.size() && is_word_character(utf8::decode(text.substr(end)).code_point);
      if (word_before || word_after) continue;
    }
    if (token.lstrip) {
      while (begin > done) {
        const std::size_t last = start_of_last(text, begin);
        if (!is_white_space(utf8::decode(text.substr(last)).code_point)) break;
        begin = last;
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      while (end < text.size()) {
        const utf8::Decoded next = utf8::decode(text.substr(end));
        if (!is_white_space(next.code_point)) break;
        end += static_cast<std::size_t>(next.length);
      }
      at = end;
    }
    if (done < begin) out.push_back({-1, done, begin});
    out.push_back({token.id, begin, end});
    done = end;
  }
  if (done < text.size()) out.push_back({-1, done, text.size()});
  return out;
}

}  // namespace moba
