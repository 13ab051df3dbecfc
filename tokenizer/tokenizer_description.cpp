#include "tokenizer/tokenizer_description.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "tokenizer/described_bpe.h"
#include "tokenizer/json_view.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/vocabulary.h"

namespace moba {

namespace {

using TokenKind = TokenizerDescription::TokenKind;

// Protocol buffers' wire format, written: the fields of sentencepiece_model.proto.
class WireWriter {
 public:
  void varint_field(unsigned number, std::uint64_t value) {
    varint(number << 3);
    varint(value);
  }
  void bytes_field(unsigned number, std::string_view bytes) {
    varint((number << 3) | 2U);
    varint(bytes.size());
    out_.append(bytes);
  }
  void float_field(unsigned number, float value) {
    varint((number << 3) | 5U);
    char bytes[sizeof(float)];
    std::memcpy(bytes, &value, sizeof(float));
    out_.append(bytes, sizeof(float));
  }
  const std::string& text() const { return out_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>((value & 0x7f) | 0x80));
    out_.push_back(static_cast<char>(value));
  }
  std::string out_;
};

// An id as a proto's int32, which spells "none" as -1.
std::uint64_t id_or_none(const std::optional<TokenId>& id) {
  return id ? static_cast<std::uint64_t>(*id) : ~std::uint64_t{0};
}

// A SentencePiece model with the tokens for pieces.
std::string make_sentencepiece_model(const TokenizerDescription& description) {
  constexpr std::uint64_t kBpe = 2;
  WireWriter model;
  std::optional<TokenId> unknown = description.unk;
  for (std::size_t id = 0; id < description.tokens.size(); ++id) {
    const TokenKind kind = description.kinds.empty() ? TokenKind::kNormal : description.kinds[id];
    if (kind == TokenKind::kUnknown) unknown = static_cast<TokenId>(id);
    WireWriter piece;
    piece.bytes_field(1, description.tokens[id]);
    piece.float_field(2, description.scores[id]);
    piece.varint_field(3, static_cast<std::uint64_t>(kind));
    model.bytes_field(1, piece.text());
  }
  WireWriter trainer;
  trainer.varint_field(3, kBpe);
  trainer.varint_field(35, 1);  // byte_fallback
  trainer.varint_field(40, id_or_none(unknown));
  trainer.varint_field(41, id_or_none(description.bos));
  trainer.varint_field(42, id_or_none(description.eos));
  trainer.varint_field(43, id_or_none(std::nullopt));  // pad
  const auto name_field = [&](unsigned number, const std::optional<TokenId>& id) {
    if (id) trainer.bytes_field(number, description.tokens[static_cast<std::size_t>(*id)]);
  };
  name_field(45, unknown);
  name_field(46, description.bos);
  name_field(47, description.eos);
  model.bytes_field(2, trainer.text());
  WireWriter normalizer;
  normalizer.bytes_field(1, "identity");
  normalizer.varint_field(3, description.add_space_prefix ? 1 : 0);
  normalizer.varint_field(4, description.remove_extra_whitespaces ? 1 : 0);
  normalizer.varint_field(5, 1);  // escape_whitespaces
  model.bytes_field(3, normalizer.text());
  return model.text();
}

std::shared_ptr<const Tokenizer> make_described_sentencepiece(
    const TokenizerDescription& description) {
  TokenizerConfig config;
  config.file = description.source;
  config.legacy = true;
  config.add_bos_token = description.add_bos.value_or(description.bos.has_value());
  config.add_eos_token = description.add_eos.value_or(false);
  const auto name = [&](const std::optional<TokenId>& id) -> std::optional<std::string> {
    if (!id) return std::nullopt;
    return std::string(description.tokens[static_cast<std::size_t>(*id)]);
  };
  config.bos_token = name(description.bos);
  config.eos_token = name(description.eos);
  config.unk_token = name(description.unk);
  return make_sentencepiece_tokenizer(make_sentencepiece_model(description), description.source,
                                      config, {});
}

void check(const TokenizerDescription& description) {
  const std::string& source = description.source;
  const std::size_t count = description.tokens.size();
  if (count == 0) fail_in_file(source, "tokenizer.ggml.tokens", "is empty");
  if (count > static_cast<std::size_t>(kMaxTokenId) + 1) {
    fail_in_file(source, "tokenizer.ggml.tokens",
                 "has " + std::to_string(count) + " tokens, at most " +
                     std::to_string(kMaxTokenId + 1) + " are allowed");
  }
  const auto check_size = [&](const char* key, std::size_t size, bool may_be_empty) {
    if (size == count || (may_be_empty && size == 0)) return;
    fail_in_file(
        source, key,
        "has " + std::to_string(size) + " elements for " + std::to_string(count) + " tokens");
  };
  check_size("tokenizer.ggml.token_type", description.kinds.size(), true);
  if (description.kind == TokenizerDescription::Kind::kSentencePiece) {
    check_size("tokenizer.ggml.scores", description.scores.size(), false);
    for (const float score : description.scores) {
      if (std::isnan(score)) fail_in_file(source, "tokenizer.ggml.scores", "has a NaN");
    }
  }
  const auto check_id = [&](const char* key, const std::optional<TokenId>& id) {
    if (id && (*id < 0 || static_cast<std::size_t>(*id) >= count)) {
      fail_in_file(source, key,
                   "is " + std::to_string(*id) + " of a vocabulary of " + std::to_string(count));
    }
  };
  check_id("tokenizer.ggml.bos_token_id", description.bos);
  check_id("tokenizer.ggml.eos_token_id", description.eos);
  check_id("tokenizer.ggml.unknown_token_id", description.unk);
}

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerDescription& description) {
  check(description);
  return description.kind == TokenizerDescription::Kind::kSentencePiece
             ? make_described_sentencepiece(description)
             : make_described_bpe(description);
}

}  // namespace moba
