#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "tokenizer/byte_level.h"
#include "tokenizer/utf8.h"

namespace moba {

namespace {

// Words up to this many symbols are merged by scanning; longer ones with a heap.
constexpr std::size_t kShortWord = 40;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

std::size_t first_slot(std::uint64_t pair, std::size_t slots) {
  const std::uint64_t hash = pair * 0x9E3779B97F4A7C15ULL;
  return static_cast<std::size_t>((hash >> 32) ^ hash) & (slots - 1);
}

std::string byte_token_name(unsigned byte) {
  std::array<char, 8> name{};
  std::snprintf(name.data(), name.size(), "<0x%02X>", byte);
  return name.data();
}

}  // namespace

BpeModel::BpeModel(const Vocabulary& vocabulary, const std::vector<BpeMerge>& merges,
                   const BpeOptions& options)
    : options_(options) {
  std::size_t slots = 16;
  while (slots < merges.size() + merges.size() / 2) slots *= 2;
  rules_.assign(slots, Rule{0, kNoRank, -1});
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& merge = merges[rank];
    const std::uint64_t pair = pair_key(merge.left, merge.right);
    std::size_t slot = first_slot(pair, slots);
    while (rules_[slot].rank != kNoRank && rules_[slot].pair != pair)
      slot = (slot + 1) & (slots - 1);
    rules_[slot] =
        Rule{pair, static_cast<std::uint32_t>(rank), merge.result};  // the last one counts
  }

  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string name;
    if (options_.byte_level) {
      utf8::append(name, byte_level::alphabet()[byte]);
    } else {
      name = byte_token_name(byte);
    }
    byte_tokens_[byte] = vocabulary.find(name).value_or(-1);
  }
  has_byte_tokens_ = std::find(byte_tokens_.begin(), byte_tokens_.end(), -1) == byte_tokens_.end();
  if (options_.byte_level && options_.byte_fallback && !has_byte_tokens_) {
    throw std::runtime_error("byte_fallback with an incomplete byte-level alphabet");
  }

  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.contains(id)) continue;
    const std::string_view text = options_.byte_level ? vocabulary.bytes(id) : vocabulary.name(id);
    if (options_.ignore_merges) {
      // A name outside the byte-level alphabet stands for no bytes, so no word of bytes is it.
      const bool spelled =
          !options_.byte_level || byte_level::bytes_of(vocabulary.name(id)).has_value();
      if (spelled) whole_words_.insert(text, id);
      longest_entry_ = std::max(longest_entry_, text.size());
    }
    if (options_.byte_level || text.empty()) continue;
    const utf8::Decoded first = utf8::decode(text);
    if (static_cast<std::size_t>(first.length) == text.size()) {
      char_tokens_.emplace(first.code_point, id);
    }
    boundaries_.add_piece(text);
  }

  // A cut must not part characters that would fuse into one unknown token, nor tokens whose name is
  // not the text they stand for.
  const bool fuses =
      options_.fuse_unk && options_.unk && !(options_.byte_fallback && has_byte_tokens_);
  const auto stands_for_itself = [&](TokenId token) {
    const bool is_byte =
        std::find(byte_tokens_.begin(), byte_tokens_.end(), token) != byte_tokens_.end();
    return !is_byte && token != options_.unk;
  };
  cuts_words_ = !options_.byte_level && !fuses &&
                std::all_of(merges.begin(), merges.end(), [&](const BpeMerge& merge) {
                  return stands_for_itself(merge.left) && stands_for_itself(merge.right);
                });
}

const BpeModel::Rule* BpeModel::find_rule(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_key(left, right);
  std::size_t slot = first_slot(pair, rules_.size());
  while (rules_[slot].rank != kNoRank) {
    if (rules_[slot].pair == pair) return &rules_[slot];
    slot = (slot + 1) & (rules_.size() - 1);
  }
  return nullptr;
}

void BpeModel::initial_symbols(std::string_view word, std::vector<TokenId>& out) const {
  bool last_unknown = false;
  const auto unknown = [&] {
    if (options_.unk && !(last_unknown && options_.fuse_unk)) out.push_back(*options_.unk);
    last_unknown = true;
  };
  if (options_.byte_level) {
    for (const char c : word) {
      const TokenId token = byte_tokens_[static_cast<unsigned char>(c)];
      if (token < 0) {
        unknown();
      } else {
        out.push_back(token);
        last_unknown = false;
      }
    }
    return;
  }
  while (!word.empty()) {
    const utf8::Decoded next = utf8::decode(word);
    const std::string_view bytes = word.substr(0, static_cast<std::size_t>(next.length));
    word.remove_prefix(bytes.size());
    const auto found = char_tokens_.find(next.code_point);
    if (found != char_tokens_.end()) {
      out.push_back(found->second);
      last_unknown = false;
      continue;
    }
    const bool fallback =
        options_.byte_fallback && std::all_of(bytes.begin(), bytes.end(), [this](char c) {
          return byte_tokens_[static_cast<unsigned char>(c)] >= 0;
        });
    if (!fallback) {
      unknown();
      continue;
    }
    for (const char c : bytes) out.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    last_unknown = false;
  }
}

void BpeWordEncoder::encode(std::string_view word, std::vector<TokenId>& out) {
  if (model_.options_.ignore_merges && word.size() <= model_.longest_entry_) {
    const TokenId whole = model_.whole_words_.find(word);
    if (whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  const auto encode_new = [this](std::string_view part, std::vector<TokenId>& to) {
    encode_part(part, to);
  };
  if (!model_.cuts_words_) return cache_.append(word, out, encode_new);
  std::size_t begin = 0;
  std::size_t at = 0;
  char32_t left = 0;
  while (at < word.size()) {
    const utf8::Decoded next = utf8::decode(word.substr(at));
    if (at > begin && model_.boundaries_.separates(left, next.code_point)) {
      cache_.append(word.substr(begin, at - begin), out, encode_new);
      begin = at;
    }
    left = next.code_point;
    at += static_cast<std::size_t>(next.length);
  }
  cache_.append(word.substr(begin), out, encode_new);
}

void BpeWordEncoder::encode_part(std::string_view part, std::vector<TokenId>& out) {
  tokens_.clear();
  model_.initial_symbols(part, tokens_);
  if (tokens_.size() <= kShortWord) {
    merge_short(out);
  } else {
    merge_long(out);
  }
}

// Lowest rank first, leftmost among equals, by scanning all pairs: quadratic, and quickest for
// words as they are.
void BpeWordEncoder::merge_short(std::vector<TokenId>& out) {
  std::array<const BpeModel::Rule*, kShortWord>
      rules;  // rules[i]: of tokens_[i] with tokens_[i + 1]
  std::size_t count = tokens_.size();
  for (std::size_t i = 0; i + 1 < count; ++i)
    rules[i] = model_.find_rule(tokens_[i], tokens_[i + 1]);
  while (count > 1) {
    std::size_t best = count;
    std::uint32_t best_rank = BpeModel::kNoRank;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (rules[i] != nullptr && rules[i]->rank < best_rank) {
        best = i;
        best_rank = rules[i]->rank;
      }
    }
    if (best == count) break;
    tokens_[best] = rules[best]->result;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      tokens_[i] = tokens_[i + 1];
      rules[i - 1] = rules[i];
    }
    --count;
    if (best > 0) rules[best - 1] = model_.find_rule(tokens_[best - 1], tokens_[best]);
    if (best + 1 < count) rules[best] = model_.find_rule(tokens_[best], tokens_[best + 1]);
  }
  out.insert(out.end(), tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(count));
}

// The same order from a heap of candidates; one whose rank is no longer its position's is stale.
void BpeWordEncoder::merge_long(std::vector<TokenId>& out) {
  const auto count = static_cast<std::int32_t>(tokens_.size());
  symbols_.clear();
  symbols_.reserve(tokens_.size());
  candidates_.clear();
  const auto rank_of = [this](TokenId left, TokenId right) {
    const BpeModel::Rule* rule = model_.find_rule(left, right);
    return rule == nullptr ? BpeModel::kNoRank : rule->rank;
  };
  for (std::int32_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool last = i + 1 == count;
    const std::uint32_t rank = last ? BpeModel::kNoRank : rank_of(tokens_[at], tokens_[at + 1]);
    symbols_.push_back({tokens_[at], i - 1, last ? -1 : i + 1, rank});
    if (rank != BpeModel::kNoRank) candidates_.push_back({rank, static_cast<std::uint32_t>(i)});
  }
  std::make_heap(candidates_.begin(), candidates_.end());
  const auto update = [&](std::int32_t position) {
    Symbol& symbol = symbols_[static_cast<std::size_t>(position)];
    symbol.rank = symbol.next < 0 ? BpeModel::kNoRank
                                  : rank_of(symbol.token,
                                            symbols_[static_cast<std::size_t>(symbol.next)].token);
    if (symbol.rank == BpeModel::kNoRank) return;
    candidates_.push_back({symbol.rank, static_cast<std::uint32_t>(position)});
    std::push_heap(candidates_.begin(), candidates_.end());
  };
  while (!candidates_.empty()) {
    std::pop_heap(candidates_.begin(), candidates_.end());
    const Candidate top = candidates_.back();
    candidates_.pop_back();
    Symbol& left = symbols_[top.position];
    if (left.rank != top.rank) continue;
    Symbol& right = symbols_[static_cast<std::size_t>(left.next)];
    left.token = model_.find_rule(left.token, right.token)->result;
    left.next = right.next;
    right.rank = BpeModel::kNoRank;
    if (left.next >= 0) {
      symbols_[static_cast<std::size_t>(left.next)].previous =
          static_cast<std::int32_t>(top.position);
    }
    update(static_cast<std::int32_t>(top.position));
    if (left.previous >= 0) update(left.previous);
  }
  for (std::int32_t i = count > 0 ? 0 : -1; i >= 0;
       i = symbols_[static_cast<std::size_t>(i)].next) {
    out.push_back(symbols_[static_cast<std::size_t>(i)].token);
  }
}

}  // namespace moba
