// Text to token ids and back. Implementations: SentencePiece models (sentencepiece.h) and Hugging
// Face tokenizer.json with byte-level BPE (bpe.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moba {

using TokenId = std::int32_t;

struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;
};

struct EncodeOptions {
  // Adds what the checkpoint's tokenizer adds by itself around a text (BOS and the like).
  bool add_special_tokens = true;
  // Text that looks like a special token ("<|eot_id|>", "</s>") becomes that token. Off for text
  // that comes from users. Added tokens that the checkpoint does not call special ("<think>" in
  // Qwen3) are found in either case.
  bool parse_special_tokens = false;
  // With parse_special_tokens, if not null: only those that lie within one of these ranges, which
  // are in order and apart. The text must be valid UTF-8 then. Borrowed for the call.
  const std::vector<ByteRange>* special_ranges = nullptr;
};

// What decode() takes away at the start of a text: SentencePiece puts a space before the first word
// when it encodes.
enum class LeadingSpace {
  kKeep,      // nothing
  kStripOne,  // one space
  kStripAll,  // every space (models that squeeze white space when they encode)
};

// Immutable after construction; every method is safe to call from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Token ids of UTF-8 `text`. Invalid bytes are never an error: they are encoded as the text in
  // which U+FFFD stands for each ill-formed sequence (byte-pair encoding: the maximal subpart, as
  // Python and Rust count; SentencePiece: every byte, as its library does). Time is linear in the
  // length of the text. Throws std::runtime_error for a text of 2 GiB or more.
  virtual std::vector<TokenId> encode(std::string_view text,
                                      const EncodeOptions& options) const = 0;

  // Text of the ids: what token_bytes() gives for each, one after another, without the space at its
  // start that leading_space() names. Special tokens that are not skipped stand as their names.
  // Bytes are returned as they are: a sequence cut inside a character gives incomplete UTF-8 (see
  // IncrementalDecoder, utf8.h). The key clean_up_tokenization_spaces of tokenizer_config.json is
  // not followed, as transformers 5 does not for byte-pair encodings: it would take spaces before
  // punctuation out of the text. Throws std::out_of_range naming the id for one outside [0,
  // vocab_size()).
  virtual std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const = 0;

  // The bytes that `id` adds to a text that already has others before it (a leading space is kept).
  // Empty for control tokens if `skip_special_tokens`. Throws std::out_of_range.
  virtual std::string token_bytes(TokenId id, bool skip_special_tokens) const = 0;

  // The token's name as the vocabulary spells it ("▁the", "Ġthe", "<|eot_id|>"). Throws
  // std::out_of_range.
  virtual std::string token_name(TokenId id) const = 0;

  // Id of a vocabulary entry or special token by its exact name.
  virtual std::optional<TokenId> token_id(std::string_view name) const = 0;

  // Throws std::out_of_range.
  virtual bool is_special(TokenId id) const = 0;

  // One more than the largest id. The model's logits may have more rows (padding).
  virtual std::int32_t vocab_size() const = 0;

  virtual LeadingSpace leading_space() const = 0;

  virtual std::optional<TokenId> bos_id() const = 0;
  virtual std::optional<TokenId> eos_id() const = 0;
};

// Whether a checkpoint directory holds tokenizer.json or tokenizer.model.
bool has_tokenizer(const std::filesystem::path& dir);

// Loads the tokenizer of a checkpoint directory: tokenizer.json if present and of a supported kind,
// else tokenizer.model; tokenizer_config.json says which special tokens are added. Throws
// std::runtime_error with one line that names the file and the key; a kind that is not supported is
// named.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& dir);

}  // namespace moba
