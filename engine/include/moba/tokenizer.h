// The tokenizer of a checkpoint, for use with or without an engine.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moba/export.h"
#include "moba/status.h"

namespace moba {

class Tokenizer;

// A handle; copies share the tokenizer. Every method is safe to call from several threads at once.
class MOBA_API TokenizerHandle {
 public:
  // Of a checkpoint directory (tokenizer.json or tokenizer.model) or a GGUF file.
  static Result<TokenizerHandle> open(const std::string& dir);
  explicit TokenizerHandle(std::shared_ptr<const Tokenizer> tokenizer);

  // Whether there is one: false for that of an engine whose checkpoint has none, which then knows
  // no token and refuses text.
  bool available() const;

  // add_special_tokens: what the checkpoint adds by itself (BOS). parse_special_tokens: text such
  // as "</s>" becomes that token.
  // kInvalidArgument for a text of 2 GiB or more.
  Result<std::vector<std::int32_t>> encode(std::string_view text, bool add_special_tokens = true,
                                           bool parse_special_tokens = false) const;
  // The text of ids, byte for byte: ids cut inside a character give incomplete UTF-8.
  // kInvalidArgument for an id out of range.
  Result<std::string> decode(const std::vector<std::int32_t>& ids,
                             bool skip_special_tokens = true) const;
  // The bytes that a token adds to a text that has others before it: a leading space is kept, and a
  // part of a character may be all there is. Special tokens stand as their names.
  Result<std::string> token_bytes(std::int32_t id) const;
  // The vocabulary's spelling of a token.
  Result<std::string> token_name(std::int32_t id) const;
  std::int32_t vocab_size() const;
  std::optional<std::int32_t> bos_id() const;
  std::optional<std::int32_t> eos_id() const;

 private:
  friend class ChatTemplateHandle;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace moba
