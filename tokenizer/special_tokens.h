// Which tokens a checkpoint puts around a text and which it calls special: tokenizer_config.json
// and the post-processor of tokenizer.json.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/json_view.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace moba {

// What is read of tokenizer_config.json. Absent keys are nullopt; a token given as null counts as
// absent.
struct TokenizerConfig {
  std::string file;  // for messages
  std::string tokenizer_class;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<std::string> unk_token;
  // Every token that is named as special: bos, eos, unk, pad, cls, sep, mask,
  // additional_special_tokens.
  std::vector<std::string> special_names;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder, by id

  // Classes for which the reference implementation builds the tokens around a text from
  // add_bos_token and add_eos_token.
  bool is_llama_class() const;
};

// Reads the file if it exists; an absent one gives the defaults. Throws std::runtime_error with one
// line.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& path);

// Tokens before and after a single text.
struct SurroundingTokens {
  std::vector<TokenId> before;
  std::vector<TokenId> after;
};

// From the post-processor at `config`: TemplateProcessing, ByteLevel (nothing), Sequence. Throws
// UnsupportedTokenizer for another, std::runtime_error for a template without text, or one that
// names unknown tokens.
SurroundingTokens parse_post_processor(const JsonView& config, const Vocabulary& vocabulary);

}  // namespace moba
