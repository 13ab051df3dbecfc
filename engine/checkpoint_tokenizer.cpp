#include "engine/checkpoint_tokenizer.h"

#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "model/gguf.h"
#include "model/json_file.h"
#include "tokenizer/tokenizer_description.h"

namespace moba {
namespace {

constexpr std::string_view kModelKey = "tokenizer.ggml.model";
constexpr std::string_view kTemplateKey = "tokenizer.chat_template";
constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 20;

std::optional<TokenId> read_id(const GgufMetadata& metadata, std::string_view key) {
  if (!metadata.has(key)) return std::nullopt;
  return static_cast<TokenId>(metadata.integer(key, 0, std::numeric_limits<TokenId>::max()));
}

std::optional<bool> read_flag(const GgufMetadata& metadata, std::string_view key) {
  if (!metadata.has(key)) return std::nullopt;
  return metadata.boolean_or(key, false);
}

// Views of strings lie in the file.
TokenizerDescription describe(const GgufMetadata& metadata) {
  TokenizerDescription out;
  out.source = metadata.file();
  const std::string model = metadata.string(kModelKey);
  if (model == "llama") {
    out.kind = TokenizerDescription::Kind::kSentencePiece;
    out.scores = metadata.floats("tokenizer.ggml.scores");
  } else if (model == "gpt2") {
    out.kind = TokenizerDescription::Kind::kByteLevel;
    out.merges = metadata.strings("tokenizer.ggml.merges");
    out.pre_tokenizer = metadata.string_or("tokenizer.ggml.pre", "default");
  } else {
    metadata.fail(kModelKey, in_quotes(model), " is not supported; known: llama, gpt2");
  }
  out.tokens = metadata.strings("tokenizer.ggml.tokens");
  constexpr std::string_view kKinds = "tokenizer.ggml.token_type";
  if (metadata.has(kKinds)) {
    for (const std::int64_t kind : metadata.integers(kKinds, 0, 6)) {
      // 0 is what some writers put for a normal one.
      out.kinds.push_back(static_cast<TokenizerDescription::TokenKind>(kind == 0 ? 1 : kind));
    }
  }
  out.bos = read_id(metadata, "tokenizer.ggml.bos_token_id");
  out.eos = read_id(metadata, "tokenizer.ggml.eos_token_id");
  out.unk = read_id(metadata, "tokenizer.ggml.unknown_token_id");
  out.add_bos = read_flag(metadata, "tokenizer.ggml.add_bos_token");
  out.add_eos = read_flag(metadata, "tokenizer.ggml.add_eos_token");
  out.add_space_prefix = metadata.boolean_or("tokenizer.ggml.add_space_prefix", true);
  out.remove_extra_whitespaces =
      metadata.boolean_or("tokenizer.ggml.remove_extra_whitespaces", false);
  return out;
}

}  // namespace

bool checkpoint_has_tokenizer(const std::filesystem::path& path) {
  if (!is_gguf_file(path)) return has_tokenizer(path);
  const Gguf file(path);
  return file.metadata().string_or(kModelKey, "none") != "none";
}

std::shared_ptr<const Tokenizer> load_checkpoint_tokenizer(const std::filesystem::path& path) {
  if (!is_gguf_file(path)) return load_tokenizer(path);
  const Gguf file(path);
  return make_tokenizer(describe(file.metadata()));
}

std::shared_ptr<const ChatTemplate> load_checkpoint_chat_template(const std::filesystem::path& path,
                                                                  const Tokenizer& tokenizer) {
  if (!is_gguf_file(path)) return load_chat_template(path, tokenizer);
  const Gguf file(path);
  const GgufMetadata& metadata = file.metadata();
  if (!metadata.has(kTemplateKey)) return nullptr;
  const std::string source = metadata.string(kTemplateKey);
  if (source.size() > kMaxTemplateBytes) {
    metadata.fail(kTemplateKey, "has ", source.size(), " bytes, at most ", kMaxTemplateBytes,
                  " are allowed");
  }
  return make_chat_template(source, metadata.file() + ": " + std::string(kTemplateKey), tokenizer);
}

}  // namespace moba
