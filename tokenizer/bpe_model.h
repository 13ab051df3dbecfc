// Byte-pair encoding of one word: the model of a tokenizer.json, without text handling.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/piece_boundaries.h"
#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"

namespace moba {

// Two tokens that become one. Its rank is its place in the list: the lowest merges first.
struct BpeMerge {
  TokenId left;
  TokenId right;
  TokenId result;
};

struct BpeOptions {
  // Words are bytes, spelled in the vocabulary in the byte-level alphabet; else UTF-8 characters.
  bool byte_level = false;
  // A character outside the vocabulary becomes its bytes' tokens "<0x..>".
  bool byte_fallback = false;
  // A word that is an entry of the vocabulary becomes that token at once.
  bool ignore_merges = false;
  // Neighbouring unknown characters become one unknown token.
  bool fuse_unk = false;
  // Without it unknown characters vanish.
  std::optional<TokenId> unk;
};

// Immutable after construction; safe from several threads, each with its own BpeWordEncoder.
class BpeModel {
 public:
  // `vocabulary` holds the model's own entries only, without added tokens; it is not kept. Throws
  // std::runtime_error naming no file.
  BpeModel(const Vocabulary& vocabulary, const std::vector<BpeMerge>& merges,
           const BpeOptions& options);

 private:
  friend class BpeWordEncoder;
  static constexpr std::uint32_t kNoRank = UINT32_MAX;
  struct Rule {
    std::uint64_t pair;  // left << 32 | right
    std::uint32_t rank;  // kNoRank = empty slot
    TokenId result;
  };

  const Rule* find_rule(TokenId left, TokenId right) const;
  // Appends the tokens of the word's characters before any merge.
  void initial_symbols(std::string_view word, std::vector<TokenId>& out) const;

  BpeOptions options_;
  std::vector<Rule> rules_;  // open addressing by pair
  // Token of each byte: its letter of the byte-level alphabet, or "<0x..>"; -1 = none.
  std::array<TokenId, 256> byte_tokens_;
  bool has_byte_tokens_ = false;                       // all 256
  std::unordered_map<char32_t, TokenId> char_tokens_;  // not byte level
  StringIndex whole_words_;        // ignore_merges: entries by the text they stand for
  std::size_t longest_entry_ = 0;  // bytes
  PieceBoundaries boundaries_;     // not byte level
  bool cuts_words_ = false;        // boundaries_ may be used
};

// Encodes words one after another, with the scratch memory and the cache that this needs. Belongs
// to one thread; borrows the model.
class BpeWordEncoder {
 public:
  BpeWordEncoder(const BpeModel& model, std::size_t text_bytes)
      : model_(model), cache_(text_bytes) {}

  // Appends the ids of `word`. n log n in its length.
  void encode(std::string_view word, std::vector<TokenId>& out);

 private:
  struct Symbol {
    TokenId token;
    std::int32_t previous;
    std::int32_t next;
    std::uint32_t rank;  // of merging with the next one
  };
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t position;
    // Order of a heap whose top is the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };

  void encode_part(std::string_view part, std::vector<TokenId>& out);
  void merge_short(std::vector<TokenId>& out);
  void merge_long(std::vector<TokenId>& out);

  const BpeModel& model_;
  WordCache cache_;
  std::vector<TokenId> tokens_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
};

}  // namespace moba
