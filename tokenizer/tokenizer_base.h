// What all tokenizers share once their tokens are known: names, bytes and decoding.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace moba {

// U+2581, which stands for a space in SentencePiece's pieces.
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

// The bytes that a piece in SentencePiece's spelling stands for: U+2581 is a space and, if
// `byte_tokens`, "<0x41>" is the byte 41.
std::string bytes_of_piece(std::string_view piece, bool byte_tokens);

struct TokenTable {
  Vocabulary vocabulary;
  LeadingSpace leading_space = LeadingSpace::kKeep;
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
};

class TokenizerBase : public Tokenizer {
 public:
  explicit TokenizerBase(TokenTable table) : table_(std::move(table)) {}

  std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const final;
  std::string token_bytes(TokenId id, bool skip_special_tokens) const final;
  std::string token_name(TokenId id) const final;
  std::optional<TokenId> token_id(std::string_view name) const final;
  bool is_special(TokenId id) const final { return table_.vocabulary.is_special(id); }
  std::int32_t vocab_size() const final { return table_.vocabulary.size(); }
  LeadingSpace leading_space() const final { return table_.leading_space; }
  std::optional<TokenId> bos_id() const final { return table_.bos; }
  std::optional<TokenId> eos_id() const final { return table_.eos; }

 protected:
  // Throws std::runtime_error if `text` is too long for 32-bit positions.
  static void check_text_size(std::string_view text);

 private:
  TokenTable table_;
};

}  // namespace moba
