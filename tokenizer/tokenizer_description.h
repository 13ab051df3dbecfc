// A tokenizer given as lists, as GGUF files have it, instead of the files of a checkpoint
// directory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace moba {

struct TokenizerDescription {
  enum class Kind : std::uint8_t {
    kSentencePiece,  // byte-pair encoding by scores, with byte fallback ("llama")
    kByteLevel,      // byte-level byte-pair encoding with merges ("gpt2")
  };
  // What a token is, in the numbers of SentencePiece and GGUF.
  enum class TokenKind : std::uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };

  std::string source;  // for messages: the file
  Kind kind = Kind::kByteLevel;
  std::string pre_tokenizer;  // kByteLevel: the name of how a text is cut into words
  std::vector<std::string_view>
      tokens;                    // by id, in the vocabulary's spelling; borrowed for the call
  std::vector<TokenKind> kinds;  // of the tokens; empty: all normal
  std::vector<float> scores;     // kSentencePiece: of the tokens
  std::vector<std::string_view> merges;  // kByteLevel: "left right" by rank
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::optional<TokenId> unk;
  // What goes around a text; absent: what such tokenizers do by themselves.
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;
  bool add_space_prefix = true;           // kSentencePiece: a space before the first word
  bool remove_extra_whitespaces = false;  // kSentencePiece
};

// Throws std::runtime_error with one line naming the source and what is wrong with it: a
// pre-tokenizer that is not known (the line lists those that are), lists of different lengths, ids
// outside the vocabulary, tokens that are there twice.
std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerDescription& description);

}  // namespace moba
