// Stands for the tokenizer of a checkpoint that has none.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "tokenizer/tokenizer.h"

namespace moba {

// Knows no token: vocab_size() is 0, which is how others recognise it. Text is refused.
class NoTokenizer final : public Tokenizer {
 public:
  // `dir`: of the checkpoint, for messages.
  explicit NoTokenizer(std::string dir) : dir_(std::move(dir)) {}

  // Throws std::runtime_error.
  std::vector<TokenId> encode(std::string_view, const EncodeOptions&) const override {
    throw std::runtime_error(dir_ +
                             " holds neither tokenizer.json nor tokenizer.model: text cannot be "
                             "read, only token ids");
  }
  std::string decode(const std::vector<TokenId>& ids, bool) const override {
    return ids.empty() ? std::string() : unknown(ids.front());
  }
  std::string token_bytes(TokenId id, bool) const override { return unknown(id); }
  std::string token_name(TokenId id) const override { return unknown(id); }
  std::optional<TokenId> token_id(std::string_view) const override { return std::nullopt; }
  bool is_special(TokenId id) const override { return !unknown(id).empty(); }
  std::int32_t vocab_size() const override { return 0; }
  LeadingSpace leading_space() const override { return LeadingSpace::kKeep; }
  std::optional<TokenId> bos_id() const override { return std::nullopt; }
  std::optional<TokenId> eos_id() const override { return std::nullopt; }

 private:
  [[noreturn]] std::string unknown(TokenId id) const {
    throw std::out_of_range(dir_ + " has no tokenizer, so token " + std::to_string(id) +
                            " has no text");
  }

  std::string dir_;
};

}  // namespace moba
