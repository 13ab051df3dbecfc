#include "tokenizer/described_bpe.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_view.h"

namespace moba {

namespace {

using TokenKind = TokenizerDescription::TokenKind;

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How a named pre-tokenizer cuts a text, and what else tokenizers of that name do.
struct PreTokenizerKind {
  std::string_view name;
  std::string_view pattern = {};   // empty: GPT-2's
  bool digits_apart = false;       // every digit is a word
  bool nfc = false;                // the text is normalised first
  bool whole_words_first = false;  // a word that is a token becomes it without merging
  bool adds_bos = false;           // where the file does not say
};
constexpr std::array<PreTokenizerKind, 17> kPreTokenizers{{
    {.name = "default"},
    {.name = "gpt-2"},
    {.name = "gpt2"},
    {.name = "phi-2"},
    {.name = "olmo"},
    {.name = "smollm", .digits_apart = true},
    {.name = "starcoder", .digits_apart = true},
    {.name = "refact", .digits_apart = true},
    {.name = "codeshell", .digits_apart = true},
    {.name = "llama3", .pattern = kLlama3, .whole_words_first = true, .adds_bos = true},
    {.name = "llama-v3", .pattern = kLlama3, .whole_words_first = true, .adds_bos = true},
    {.name = "llama-bpe", .pattern = kLlama3, .whole_words_first = true, .adds_bos = true},
    {.name = "falcon3", .pattern = kLlama3, .whole_words_first = true, .adds_bos = true},
    {.name = "dbrx", .pattern = kLlama3},
    {.name = "qwen2", .pattern = kQwen2, .nfc = true},
    {.name = "deepseek-r1-qwen", .pattern = kQwen2, .nfc = true},
    {.name = "tekken", .pattern = kTekken, .whole_words_first = true, .adds_bos = true},
}};

const PreTokenizerKind& find_pre_tokenizer(const TokenizerDescription& description) {
  for (const PreTokenizerKind& kind : kPreTokenizers) {
    if (kind.name == description.pre_tokenizer) return kind;
  }
  std::string known;
  for (const PreTokenizerKind& kind : kPreTokenizers) {
    known += (known.empty() ? "" : ", ") + std::string(kind.name);
  }
  fail_in_file(description.source, "tokenizer.ggml.pre",
               in_double_quotes(description.pre_tokenizer) + " is not supported; known: " + known);
}

// As a tokenizer.json would have it.
nlohmann::json pre_tokenizer_config(const PreTokenizerKind& kind) {
  nlohmann::json stages = nlohmann::json::array();
  if (kind.digits_apart) stages.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!kind.pattern.empty()) {
    stages.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", kind.pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
  }
  stages.push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", kind.pattern.empty()}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(stages)}};
}

TokenKind kind_of(const TokenizerDescription& description, std::size_t id) {
  return description.kinds.empty() ? TokenKind::kNormal : description.kinds[id];
}

bool is_added(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined ||
         kind == TokenKind::kUnknown;
}

void add_token(const TokenizerDescription& description, std::size_t id, std::string_view bytes,
               bool special, Vocabulary& out) {
  try {
    out.add(static_cast<TokenId>(id), description.tokens[id], bytes, special);
  } catch (const std::runtime_error& error) {
    fail_in_file(description.source, "tokenizer.ggml.tokens", error.what());
  }
}

std::vector<BpeMerge> resolve_merges(const TokenizerDescription& description,
                                     const Vocabulary& vocabulary) {
  std::vector<BpeMerge> out;
  out.reserve(description.merges.size());
  const auto fail = [&](const std::string& message) {
    fail_in_file(description.source, "tokenizer.ggml.merges[" + std::to_string(out.size()) + "]",
                 message);
  };
  std::string joined;
  for (const std::string_view merge : description.merges) {
    const std::size_t space = merge.find(' ', 1);  // neither side is empty
    if (merge.empty() || space == std::string_view::npos || space + 1 == merge.size()) {
      fail("is not two tokens with a space between them");
    }
    const auto find = [&](std::string_view name) {
      const std::optional<TokenId> id = vocabulary.find(name);
      if (!id) fail("token " + in_double_quotes(std::string(name)) + " is not in the vocabulary");
      return *id;
    };
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    out.push_back({find(merge.substr(0, space)), find(merge.substr(space + 1)), find(joined)});
  }
  return out;
}

}  // namespace

std::shared_ptr<const Tokenizer> make_described_bpe(const TokenizerDescription& description) {
  const PreTokenizerKind& kind = find_pre_tokenizer(description);
  BpeParts parts;
  const nlohmann::json stages = pre_tokenizer_config(kind);
  parts.pretokenizer = make_pretokenizer(JsonView(stages, description.source, "pre_tokenizer"));
  const nlohmann::json nfc{{"type", "NFC"}};
  if (kind.nfc) parts.normalizer = make_normalizer(JsonView(nfc, description.source, "normalizer"));

  // The model merges within its own entries only; added tokens are found in the text beforehand.
  Vocabulary entries;
  TokenTable table;
  std::vector<AddedToken> added;
  for (std::size_t id = 0; id < description.tokens.size(); ++id) {
    const std::string_view name = description.tokens[id];
    const TokenKind token_kind = kind_of(description, id);
    if (is_added(token_kind)) {
      AddedToken token;
      token.id = static_cast<TokenId>(id);
      token.content = name;
      token.special = token_kind != TokenKind::kUserDefined;
      add_token(description, id, name, token.special, table.vocabulary);
      added.push_back(std::move(token));
      continue;
    }
    const std::string bytes = byte_level::bytes_of(name).value_or(std::string(name));
    add_token(description, id, bytes, false, table.vocabulary);
    if (token_kind == TokenKind::kNormal || token_kind == TokenKind::kByte) {
      add_token(description, id, bytes, false, entries);
    }
  }
  // Merges may make a token that is an added one, which the model then has as an entry too.
  std::vector<BpeMerge> merges;
  try {
    BpeOptions options;
    options.byte_level = true;
    options.ignore_merges = kind.whole_words_first;
    merges = resolve_merges(description, table.vocabulary);
    parts.model = std::make_unique<const BpeModel>(entries, merges, options);
  } catch (const std::logic_error& error) {
    fail_in_file(description.source, "tokenizer.ggml", error.what());
  }
  std::stable_sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.special && !b.special;
  });
  parts.raw_tokens = AddedTokenMatcher(added);
  table.bos = description.bos;
  table.eos = description.eos;
  if (description.add_bos.value_or(kind.adds_bos) && table.bos) {
    parts.surrounding.before.push_back(*table.bos);
  }
  if (description.add_eos.value_or(false) && table.eos) {
    parts.surrounding.after.push_back(*table.eos);
  }
  return make_bpe_tokenizer(std::move(table), std::move(parts));
}

}  // namespace moba
