#include "tokenizer/bpe.h"

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer_base.h"
#include "tokenizer/tokenizer_json.h"

namespace moba {

namespace {

// The vocabulary of the model, without added tokens.
Vocabulary build_vocabulary(const TokenizerJson& json, bool byte_level, bool byte_fallback) {
  Vocabulary out;
  out.reserve(json.vocab.size(), json.arena.size());
  for (const TokenizerJson::VocabEntry& entry : json.vocab) {
    const std::string_view name = json.name(entry);
    std::string bytes(name);
    if (byte_level) {
      bytes = byte_level::bytes_of(name).value_or(bytes);
    } else {
      bytes = bytes_of_piece(name, byte_fallback);
    }
    const TokenId id = entry.id < 0 || entry.id > kMaxTokenId ? -1 : static_cast<TokenId>(entry.id);
    if (id < 0) {
      fail_in_file(json.file, "model.vocab",
                   "token " + in_double_quotes(name) + " has an id outside [0, " +
                       std::to_string(kMaxTokenId) + "]");
    }
    try {
      out.add(id, name, bytes, /*special=*/false);
    } catch (const std::runtime_error& error) {
      fail_in_file(json.file, "model.vocab", error.what());
    }
  }
  return out;
}

std::vector<BpeMerge> resolve_merges(const TokenizerJson& json, const Vocabulary& vocabulary) {
  std::vector<BpeMerge> out;
  out.reserve(json.merges.size());
  std::string joined;
  const auto find = [&](std::string_view name) {
    const std::optional<TokenId> id = vocabulary.find(name);
    if (!id) {
      fail_in_file(json.file, "model.merges[" + std::to_string(out.size()) + "]",
                   "token " + in_double_quotes(name) + " is not in the vocabulary");
    }
    return *id;
  };
  for (const TokenizerJson::MergeEntry& entry : json.merges) {
    const auto [left, right] = json.names(entry);
    joined.assign(left).append(right);
    out.push_back({find(left), find(right), find(joined)});
  }
  return out;
}

BpeOptions parse_model_options(const JsonView& model, const Vocabulary& vocabulary,
                               bool byte_level) {
  BpeOptions out;
  out.byte_level = byte_level;
  out.byte_fallback = model.bool_or("byte_fallback", false);
  out.ignore_merges = model.bool_or("ignore_merges", false);
  out.fuse_unk = model.bool_or("fuse_unk", false);
  if (const std::optional<JsonView> unk = model.find("unk_token")) {
    out.unk = vocabulary.find(unk->as_string());
    if (!out.unk) unk->fail(in_double_quotes(unk->as_string()) + " is not in the vocabulary");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string_or(key, "").empty()) {
      fail_unsupported(model, key, model.string_or(key, ""), "none");
    }
  }
  if (const std::optional<JsonView> dropout = model.find("dropout")) {
    if (!dropout->value().is_number() || dropout->value().get<double>() != 0.0) {
      fail_unsupported(model, "dropout", dropout->value().dump(), "none");
    }
  }
  return out;
}

// Adds one added token to the vocabulary, which may know it already, and to `tokens`.
void add_token(const std::string& file, const std::string& key, AddedToken token,
               Vocabulary& vocabulary, std::vector<AddedToken>& tokens) {
  if (const std::optional<TokenId> known = vocabulary.find(token.content)) {
    if (*known != token.id) {
      fail_in_file(file, key,
                   "token " + in_double_quotes(token.content) + " has id " +
                       std::to_string(token.id) + " here and " + std::to_string(*known) +
                       " in the vocabulary");
    }
    vocabulary.set(token.id, token.content, token.special);
  } else {
    try {
      vocabulary.add(token.id, token.content, token.content, token.special);
    } catch (const std::runtime_error& error) {
      fail_in_file(file, key, error.what());
    }
  }
  tokens.push_back(std::move(token));
}

std::vector<AddedToken> collect_added_tokens(const JsonView& root, const TokenizerConfig& config,
                                             Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  std::unordered_set<std::string> contents;
  const auto known = [&contents](const std::string& content) {
    return contents.count(content) > 0;
  };
  if (const std::optional<JsonView> added = root.find("added_tokens")) {
    for (const JsonView& entry : added->elements()) {
      AddedToken token = parse_added_token(entry);
      token.id = static_cast<TokenId>(entry.at("id").as_int(0, kMaxTokenId));
      contents.insert(token.content);
      add_token(entry.file(), entry.key(), std::move(token), vocabulary, tokens);
    }
  }
  for (const AddedToken& token : config.added_tokens) {
    if (!known(token.content)) {
      contents.insert(token.content);
      add_token(config.file, "added_tokens_decoder." + std::to_string(token.id), token, vocabulary,
                tokens);
    }
  }
  for (const std::string& name : config.special_names) {
    const std::optional<TokenId> id = vocabulary.find(name);
    if (!id || known(name)) continue;
    AddedToken token;
    token.id = *id;
    token.content = name;
    token.special = true;
    contents.insert(name);
    add_token(config.file, "special tokens", std::move(token), vocabulary, tokens);
  }
  // Special tokens take precedence where contents are equal.
  std::stable_sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.special && !b.special;
  });
  return tokens;
}

// What decode() takes from the start of a text, from the decoder at `config`.
LeadingSpace parse_decoder(const JsonView& config, bool byte_level) {
  constexpr std::string_view kSupported =
      "ByteLevel, Metaspace, Sequence, Replace, ByteFallback, Fuse, Strip";
  const std::string& type = config.at("type").as_string();
  if (type == "ByteLevel" && !byte_level) {
    config.fail("ByteLevel without a pre-tokenizer of that kind");
  }
  if (type == "ByteLevel" || type == "ByteFallback" || type == "Fuse") return LeadingSpace::kKeep;
  if (type == "Replace") {
    const std::optional<JsonView> pattern = config.at("pattern").find("String");
    const bool metaspace =
        pattern && pattern->as_string() == kMetaspace && config.at("content").as_string() == " ";
    if (!metaspace) fail_unsupported(config, "decoder", type, "Replace of \xE2\x96\x81 by a space");
    return LeadingSpace::kKeep;
  }
  if (type == "Strip") {
    const bool one = config.string_or("content", "") == " " &&
                     config.at("start").as_int(0, INT32_MAX) == 1 &&
                     config.at("stop").as_int(0, INT32_MAX) == 0;
    if (!one) fail_unsupported(config, "decoder", type, "Strip of one leading space");
    return LeadingSpace::kStripOne;
  }
  if (type == "Metaspace") {
    const std::string scheme = config.string_or(
        "prepend_scheme", config.bool_or("add_prefix_space", true) ? "always" : "never");
    return scheme == "never" ? LeadingSpace::kKeep : LeadingSpace::kStripOne;
  }
  if (type == "Sequence") {
    LeadingSpace out = LeadingSpace::kKeep;
    for (const JsonView& step : config.at("decoders").elements()) {
      if (parse_decoder(step, byte_level) == LeadingSpace::kStripOne) out = LeadingSpace::kStripOne;
    }
    return out;
  }
  fail_unsupported(config, "decoder", type, kSupported);
}

// bos and eos around the text as the reference's Llama classes build them, whatever the
// post-processor says.
void apply_llama_flags(const TokenizerConfig& config, bool has_post_processor,
                       const TokenTable& table, SurroundingTokens& around) {
  if (!config.is_llama_class()) return;
  if (has_post_processor && !config.add_bos_token && !config.add_eos_token) return;
  around = {};
  if (config.add_bos_token.value_or(true)) {
    if (table.bos) {
      around.before.push_back(*table.bos);
    } else if (config.add_bos_token) {
      fail_in_file(config.file, "add_bos_token", "true, but \"bos_token\" names no known token");
    }
  }
  if (config.add_eos_token.value_or(false)) {
    if (!table.eos) {
      fail_in_file(config.file, "add_eos_token", "true, but \"eos_token\" names no known token");
    }
    around.after.push_back(*table.eos);
  }
}

}  // namespace

std::shared_ptr<const Tokenizer> load_bpe_tokenizer(const std::filesystem::path& dir) {
  const TokenizerJson json = read_tokenizer_json(dir / "tokenizer.json");
  const TokenizerConfig config = read_tokenizer_config(dir / "tokenizer_config.json");
  const JsonView root(json.document, json.file, "");
  const JsonView model = root.at("model");
  // Old files leave out the type of a BPE model.
  const std::string type = model.string_or("type", json.has_merges ? "BPE" : "");
  if (type != "BPE") fail_unsupported(model, "model", type, "BPE");
  if (!json.has_vocab) model.fail("\"vocab\" is missing or not an object");
  if (!json.has_merges) model.fail("\"merges\" is missing or not an array");
  if (json.vocab.empty()) model.fail("\"vocab\" is empty");

  BpeParts parts;
  if (const std::optional<JsonView> normalizer = root.find("normalizer")) {
    parts.normalizer = make_normalizer(*normalizer);
  }
  if (const std::optional<JsonView> pretokenizer = root.find("pre_tokenizer")) {
    parts.pretokenizer = make_pretokenizer(*pretokenizer);
  }

  const bool byte_level = parts.pretokenizer.byte_level;
  TokenTable table;
  table.vocabulary = build_vocabulary(json, byte_level, model.bool_or("byte_fallback", false));
  const BpeOptions options = parse_model_options(model, table.vocabulary, byte_level);
  try {
    parts.model = std::make_unique<const BpeModel>(table.vocabulary,
                                                   resolve_merges(json, table.vocabulary), options);
  } catch (const std::logic_error& error) {
    model.fail(error.what());
  }

  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken& token : collect_added_tokens(root, config, table.vocabulary)) {
    if (token.normalized && parts.normalizer != nullptr && !token.content.empty()) {
      parts.normalizer->apply(token.content);
    }
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  parts.raw_tokens = AddedTokenMatcher(raw);
  parts.normalized_tokens = AddedTokenMatcher(normalized);

  const std::optional<JsonView> post_processor = root.find("post_processor");
  if (post_processor) parts.surrounding = parse_post_processor(*post_processor, table.vocabulary);
  if (config.bos_token) table.bos = table.vocabulary.find(*config.bos_token);
  if (config.eos_token) table.eos = table.vocabulary.find(*config.eos_token);
  if (!table.bos && parts.surrounding.before.size() == 1) table.bos = parts.surrounding.before[0];
  apply_llama_flags(config, post_processor.has_value(), table, parts.surrounding);

  const std::optional<JsonView> decoder = root.find("decoder");
  if (decoder) {
    table.leading_space = parse_decoder(*decoder, byte_level);
  } else if (!byte_level) {
    root.fail("\"decoder\" is missing");
  }
  return make_bpe_tokenizer(std::move(table), std::move(parts));
}

}  // namespace moba
