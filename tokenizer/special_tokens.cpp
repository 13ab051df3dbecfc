#include "tokenizer/special_tokens.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "tokenizer/normalizer.h"

namespace moba {

namespace {

// A token is a string or an object with "content".
std::optional<std::string> token_name(const JsonView& config, std::string_view key) {
  const std::optional<JsonView> member = config.find(key);
  if (!member) return std::nullopt;
  return member->is_object() ? member->at("content").as_string() : member->as_string();
}

TokenId parse_id(const JsonView& where, const std::string& text) {
  TokenId id = -1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, id);
  if (error != std::errc() || stop != end || id < 0 || id > kMaxTokenId) {
    where.fail(in_double_quotes(text) + " is not a token id in [0, " + std::to_string(kMaxTokenId) +
               "]");
  }
  return id;
}

void append_template(const JsonView& config, const Vocabulary& vocabulary, SurroundingTokens& out) {
  const std::optional<JsonView> known = config.find("special_tokens");
  bool seen_text = false;
  for (const JsonView& part : config.at("single").elements()) {
    if (part.find("Sequence")) {
      if (seen_text) part.fail("the text stands twice in the template");
      seen_text = true;
      continue;
    }
    const std::string& name = part.at("SpecialToken").at("id").as_string();
    std::vector<TokenId>& side = seen_text ? out.after : out.before;
    if (const std::optional<JsonView> entry = known ? known->find(name) : std::nullopt) {
      for (const JsonView& id : entry->at("ids").elements()) {
        const auto value = static_cast<TokenId>(id.as_int(0, kMaxTokenId));
        if (!vocabulary.contains(value)) {
          id.fail("id " + std::to_string(value) + " is not in the vocabulary");
        }
        side.push_back(value);
      }
    } else {
      part.fail("token " + in_double_quotes(name) + " is not among \"special_tokens\"");
    }
  }
  if (!seen_text) config.at("single").fail("the template has no place for the text");
}

void append_processor(const JsonView& config, const Vocabulary& vocabulary,
                      SurroundingTokens& out) {
  const std::string& type = config.at("type").as_string();
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    for (const JsonView& step : config.at("processors").elements()) {
      append_processor(step, vocabulary, out);
    }
  } else if (type == "TemplateProcessing") {
    SurroundingTokens here;
    append_template(config, vocabulary, here);
    // A later processor wraps what an earlier one made.
    out.before.insert(out.before.begin(), here.before.begin(), here.before.end());
    out.after.insert(out.after.end(), here.after.begin(), here.after.end());
  } else {
    fail_unsupported(config, "post-processor", type, "TemplateProcessing, ByteLevel, Sequence");
  }
}

}  // namespace

bool TokenizerConfig::is_llama_class() const {
  return tokenizer_class == "LlamaTokenizer" || tokenizer_class == "LlamaTokenizerFast" ||
         tokenizer_class == "CodeLlamaTokenizer" || tokenizer_class == "CodeLlamaTokenizerFast" ||
         tokenizer_class == "GemmaTokenizer" || tokenizer_class == "GemmaTokenizerFast";
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& path) {
  TokenizerConfig out;
  out.file = path.string();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return out;
  const nlohmann::json document =
      parse_json_object(read_tokenizer_file(path, kMaxTokenizerFileBytes), out.file);
  const JsonView config(document, out.file, "");

  out.tokenizer_class = config.string_or("tokenizer_class", "");
  const auto flag = [&config](std::string_view key) -> std::optional<bool> {
    const std::optional<JsonView> member = config.find(key);
    if (!member) return std::nullopt;
    return member->as_bool();
  };
  out.add_bos_token = flag("add_bos_token");
  out.add_eos_token = flag("add_eos_token");
  out.add_prefix_space = flag("add_prefix_space");
  out.legacy = flag("legacy");
  out.bos_token = token_name(config, "bos_token");
  out.eos_token = token_name(config, "eos_token");
  out.unk_token = token_name(config, "unk_token");

  for (const std::string_view key : {"bos_token", "eos_token", "unk_token", "pad_token",
                                     "cls_token", "sep_token", "mask_token"}) {
    if (std::optional<std::string> name = token_name(config, key)) {
      out.special_names.push_back(*std::move(name));
    }
  }
  if (const std::optional<JsonView> more = config.find("additional_special_tokens")) {
    for (const JsonView& token : more->elements()) {
      out.special_names.push_back(token.is_object() ? token.at("content").as_string()
                                                    : token.as_string());
    }
  }
  if (const std::optional<JsonView> added = config.find("added_tokens_decoder")) {
    for (const auto& [id, entry] : added->members()) {
      AddedToken token = parse_added_token(entry);
      token.id = parse_id(entry, id);
      out.added_tokens.push_back(std::move(token));
    }
    std::sort(out.added_tokens.begin(), out.added_tokens.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }
  return out;
}

SurroundingTokens parse_post_processor(const JsonView& config, const Vocabulary& vocabulary) {
  SurroundingTokens out;
  append_processor(config, vocabulary, out);
  return out;
}

}  // namespace moba
