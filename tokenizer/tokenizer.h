// Text to token ids and back. Implementations: SentencePiece models (sentencepiece.h) and Hugging Face tokenizer.json
// with byte-level BPE (bpe.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moba {

using TokenId = std::int32_t;

struct EncodeOptions {
  // Adds what the checkpoint's tokenizer adds by itself around a text (BOS and the like).
  bool add_special_tokens = true;
  // Text that looks like a special token ("<|eot_id|>", "</s>") becomes that token. Off for text that comes from users.
  bool parse_special_tokens = false;
};

// Immutable after construction; every method is safe to call from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Token ids of UTF-8 `text`. Invalid bytes are never an error: they are encoded as the reference implementation encodes the
  // text in which each invalid sequence stands as U+FFFD. Time is linear in the length of the text.
  virtual std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const = 0;

  // Text of the ids. Bytes are returned as they are: a sequence cut inside a character gives incomplete UTF-8 (see
  // IncrementalDecoder). Throws std::out_of_range naming the id for one outside [0, vocab_size()).
  virtual std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const = 0;

  // The bytes that `id` adds to a text that already has others before it (a leading space is kept). Empty for control tokens
  // if `skip_special_tokens`. Throws std::out_of_range.
  virtual std::string token_bytes(TokenId id, bool skip_special_tokens) const = 0;

  // The token's name as the vocabulary spells it ("▁the", "Ġthe", "<|eot_id|>"). Throws std::out_of_range.
  virtual std::string token_name(TokenId id) const = 0;

  // Id of a vocabulary entry or special token by its exact name.
  virtual std::optional<TokenId> token_id(std::string_view name) const = 0;

  virtual bool is_special(TokenId id) const = 0;

  // One more than the largest id. The model's logits may have more rows (padding).
  virtual std::int32_t vocab_size() const = 0;

  virtual std::optional<TokenId> bos_id() const = 0;
  virtual std::optional<TokenId> eos_id() const = 0;
};

// Loads the tokenizer of a checkpoint directory: tokenizer.json if present and of a supported kind, else tokenizer.model;
// tokenizer_config.json says which special tokens are added. Throws std::runtime_error with one line that names the file.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& dir);

}  // namespace moba
