#include "tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/json_view.h"
#include "tokenizer/piece_boundaries.h"
#include "tokenizer/sentencepiece_proto.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer_base.h"
#include "tokenizer/utf8.h"
#include "tokenizer/word_cache.h"

namespace moba {

namespace {

using PieceType = SentencePieceSpec::PieceType;
using Processor = sentencepiece::SentencePieceProcessor;

constexpr char32_t kMetaspacePoint = 0x2581;

struct SentencePieceParts {
  // As the model says, for whole texts; null if `cuts_words`.
  std::unique_ptr<Processor> with_prefix;
  // The same without the dummy prefix.
  std::unique_ptr<Processor> plain;
  bool add_dummy_prefix = true;
  bool cuts_words = false;  // the text may be encoded word by word
  PieceBoundaries boundaries;
  AddedTokenMatcher added_tokens;
  bool legacy = true;
  bool add_prefix_space = true;
  std::string unk_name;
  std::size_t unk_length = 0;  // ids of `unk_name` taken as plain text
  std::optional<TokenId> metaspace;
  SurroundingTokens surrounding;
};

void encode_with(const Processor& processor, std::string_view text, std::vector<int>& ids) {
  const sentencepiece::util::Status status =
      processor.Encode(absl::string_view(text.data(), text.size()), &ids);
  if (!status.ok()) throw std::runtime_error("sentencepiece: " + printable(status.ToString(), 200));
}

class SentencePieceTokenizer final : public TokenizerBase {
 public:
  SentencePieceTokenizer(TokenTable table, SentencePieceParts parts)
      : TokenizerBase(std::move(table)), parts_(std::move(parts)) {}

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
    check_text_size(text);
    std::vector<TokenId> out;
    out.reserve(text.size() / 3 + 8);
    const std::vector<TokenId>& before = parts_.surrounding.before;
    const std::vector<TokenId>& after = parts_.surrounding.after;
    if (options.add_special_tokens) out.insert(out.end(), before.begin(), before.end());
    const std::size_t body = out.size();

    std::string prefixed;
    std::vector<ByteRange> moved;
    const std::vector<ByteRange>* special_ranges = options.special_ranges;
    if (!parts_.legacy && !text.empty()) {
      // The library takes U+2581 and a space for the same character.
      if (parts_.add_prefix_space) prefixed = " ";
      if (special_ranges != nullptr) {
        moved = moved_ranges(text, prefixed.size(), *special_ranges);
        special_ranges = &moved;
      }
      append_with_spaces(text, prefixed);
      text = prefixed;
    }
    WordCache cache(text.size());
    std::vector<int> ids;
    for (const AddedTokenMatcher::Segment& segment :
         parts_.added_tokens.find(text, options.parse_special_tokens, special_ranges)) {
      if (segment.id >= 0) {
        // A prefix that stands alone before a special token goes.
        const bool lone_prefix =
            !parts_.legacy && out.size() == body + 1 && parts_.metaspace == out[body];
        if (lone_prefix && is_special(segment.id)) out.pop_back();
        out.push_back(segment.id);
      } else {
        encode_plain(text.substr(segment.begin, segment.end - segment.begin), cache, ids, out);
      }
    }
    if (options.add_special_tokens) out.insert(out.end(), after.begin(), after.end());
    return out;
  }

 private:
  static void append_with_spaces(std::string_view text, std::string& out) {
    out.reserve(out.size() + text.size());
    while (true) {
      const std::size_t found = text.find(kMetaspace);
      out.append(text.substr(0, found));
      if (found == std::string_view::npos) return;
      out.push_back(' ');
      text.remove_prefix(found + kMetaspace.size());
    }
  }

  // Where ranges of `text` lie behind a prefix and append_with_spaces().
  static std::vector<ByteRange> moved_ranges(std::string_view text, std::size_t prefix,
                                             const std::vector<ByteRange>& ranges) {
    std::vector<ByteRange> out;
    std::size_t from = 0;
    std::size_t to = prefix;
    const auto move = [&](std::size_t offset) {
      std::string piece;
      append_with_spaces(text.substr(from, offset - from), piece);
      from = offset;
      return to += piece.size();
    };
    for (const ByteRange& range : ranges) {
      const std::size_t begin = move(range.begin);
      out.push_back({begin, move(range.end)});
    }
    return out;
  }

  // Text without added tokens.
  void encode_plain(std::string_view text, WordCache& cache, std::vector<int>& ids,
                    std::vector<TokenId>& out) const {
    if (parts_.cuts_words) {
      if (!parts_.legacy || !parts_.add_dummy_prefix) return encode_words(text, cache, ids, out);
      return encode_words(std::string(" ").append(text), cache, ids, out);
    }
    std::size_t skip = 0;
    if (parts_.legacy) {
      encode_with(*parts_.with_prefix, text, ids);
    } else if (text.starts_with(' ')) {
      // Models that squeeze white space would drop the one at the start: it is put behind the name
      // of the unknown token, as the reference does, whose ids are then dropped.
      encode_with(*parts_.plain, parts_.unk_name + std::string(text), ids);
      if (ids.size() >= parts_.unk_length) skip = parts_.unk_length;
    } else {
      encode_with(*parts_.plain, text, ids);
    }
    out.insert(out.end(), ids.begin() + static_cast<std::ptrdiff_t>(skip), ids.end());
  }

  void encode_words(std::string_view text, WordCache& cache, std::vector<int>& ids,
                    std::vector<TokenId>& out) const {
    const auto encode_new = [&](std::string_view word, std::vector<TokenId>& to) {
      encode_with(*parts_.plain, word, ids);
      to.insert(to.end(), ids.begin(), ids.end());
    };
    std::size_t begin = 0;
    std::size_t at = 0;
    char32_t left = 0;
    while (at < text.size()) {
      // Every byte of an ill-formed sequence is U+FFFD for the library, whatever follows it.
      const utf8::Decoded next = utf8::decode(text.substr(at));
      const char32_t right = next.code_point == ' ' ? kMetaspacePoint : next.code_point;
      if (at > begin && parts_.boundaries.separates(left, right)) {
        cache.append(text.substr(begin, at - begin), out, encode_new);
        begin = at;
      }
      left = right;
      at += static_cast<std::size_t>(next.length);
    }
    if (begin < text.size()) cache.append(text.substr(begin), out, encode_new);
  }

  SentencePieceParts parts_;
};

std::unique_ptr<Processor> load_processor(const std::string& serialized, const std::string& file) {
  auto out = std::make_unique<Processor>();
  const sentencepiece::util::Status status = out->LoadFromSerializedProto(serialized);
  if (!status.ok()) {
    fail_in_file(file, "",
                 "the sentencepiece library refuses it: " + printable(status.ToString(), 200));
  }
  return out;
}

// A model with a NormalizerSpec appended that switches the dummy prefix off: protocol buffers merge
// a repeated message into the first, and the last value of a field counts.
std::string without_dummy_prefix(std::string serialized) {
  // normalizer_spec (field 3, 2 bytes) { add_dummy_prefix (field 3): false }
  return std::move(serialized.append("\x1A\x02\x18\x00", 4));
}

Vocabulary build_vocabulary(const SentencePieceSpec& spec, const std::string& file) {
  Vocabulary out;
  out.reserve(spec.pieces.size(), spec.pieces.size() * 8);
  for (std::size_t i = 0; i < spec.pieces.size(); ++i) {
    const SentencePieceSpec::Piece& piece = spec.pieces[i];
    const bool special = piece.type == PieceType::kControl || piece.type == PieceType::kUnknown;
    const std::string bytes = special ? std::string(piece.text)
                                      : bytes_of_piece(piece.text, piece.type == PieceType::kByte);
    try {
      out.add(static_cast<TokenId>(i), piece.text, bytes, special);
    } catch (const std::runtime_error& error) {
      fail_in_file(file, "", error.what());
    }
  }
  return out;
}

// Tokens that are found in the text before the library sees it: those of tokenizer_config.json and
// added_tokens.json, and the model's own control tokens. Adds what is new to the vocabulary.
std::vector<AddedToken> collect_added_tokens(const SentencePieceSpec& spec,
                                             const TokenizerConfig& config,
                                             const std::filesystem::path& added_tokens_file,
                                             Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens = config.added_tokens;
  std::error_code ignored;
  if (std::filesystem::exists(added_tokens_file, ignored)) {
    const std::string file = added_tokens_file.string();
    const nlohmann::json document =
        parse_json_object(read_tokenizer_file(added_tokens_file, kMaxTokenizerFileBytes), file);
    const std::vector<std::string>& special = config.special_names;
    for (const auto& [name, id] : JsonView(document, file, "").members()) {
      AddedToken token;
      token.id = static_cast<TokenId>(id.as_int(0, kMaxTokenId));
      token.content = name;
      token.special = std::find(special.begin(), special.end(), name) != special.end();
      tokens.push_back(std::move(token));
    }
  }
  for (const AddedToken& token : tokens) {
    try {
      if (vocabulary.contains(token.id)) {
        vocabulary.rename(token.id, token.content);
        vocabulary.set(token.id, token.content, token.special);
      } else {
        vocabulary.add(token.id, token.content, token.content, token.special);
      }
    } catch (const std::runtime_error& error) {
      fail_in_file(config.file, "added_tokens_decoder", error.what());
    }
  }
  const auto add_known = [&](std::string_view name) {
    const std::optional<TokenId> id = vocabulary.find(name);
    if (!id) return;
    vocabulary.set(*id, name, /*special=*/true);
    AddedToken token;
    token.id = *id;
    token.content = name;
    token.special = true;
    tokens.push_back(std::move(token));  // the matcher keeps the first of equal contents
  };
  for (const std::string& name : config.special_names) add_known(name);
  for (const SentencePieceSpec::Piece& piece : spec.pieces) {
    if (piece.type == PieceType::kControl || piece.type == PieceType::kUnknown)
      add_known(piece.text);
  }
  return tokens;
}

std::optional<TokenId> named_token(const std::optional<std::string>& name, int model_id,
                                   const Vocabulary& vocabulary) {
  if (name) {
    if (const std::optional<TokenId> id = vocabulary.find(*name)) return id;
  }
  if (model_id >= 0) return model_id;
  return std::nullopt;
}

void add_surrounding(const TokenizerConfig& config, const TokenTable& table,
                     SurroundingTokens& around) {
  if (config.add_bos_token.value_or(table.bos.has_value())) {
    if (!table.bos)
      fail_in_file(config.file, "add_bos_token", "true, but the model has no BOS token");
    around.before.push_back(*table.bos);
  }
  if (config.add_eos_token.value_or(false)) {
    if (!table.eos)
      fail_in_file(config.file, "add_eos_token", "true, but the model has no EOS token");
    around.after.push_back(*table.eos);
  }
}

// Whether a text may be given to the library word by word, and where it may be cut.
void find_boundaries(const SentencePieceSpec& spec, SentencePieceParts& parts) {
  for (const SentencePieceSpec::Piece& piece : spec.pieces) {
    if (piece.type == PieceType::kNormal || piece.type == PieceType::kUserDefined ||
        piece.type == PieceType::kUnused) {
      parts.boundaries.add_piece(piece.text);
    }
  }
  // Without byte fallback neighbouring unknown characters fuse; a charsmap or the squeezing of
  // white space looks across words; without legacy the reference puts the name of the unknown token
  // before the text, which must not merge with it.
  parts.cuts_words = spec.model_type == SentencePieceSpec::ModelType::kBpe && spec.byte_fallback &&
                     !spec.has_charsmap && !spec.remove_extra_whitespaces &&
                     spec.escape_whitespaces && !spec.whitespace_as_suffix &&
                     (parts.legacy || parts.boundaries.separates('>', kMetaspacePoint));
}

}  // namespace

std::shared_ptr<const Tokenizer> make_sentencepiece_tokenizer(
    const std::string& serialized, const std::string& file, const TokenizerConfig& config,
    const std::filesystem::path& added_tokens_file) {
  SentencePieceSpec spec;
  try {
    spec = read_sentencepiece_spec(serialized);
  } catch (const std::runtime_error& error) {
    fail_in_file(file, "", error.what());
  }

  SentencePieceParts parts;
  parts.legacy = config.legacy.value_or(true);
  parts.add_prefix_space = config.add_prefix_space.value_or(true);
  parts.add_dummy_prefix = spec.add_dummy_prefix;
  find_boundaries(spec, parts);
  parts.plain = load_processor(without_dummy_prefix(serialized), file);
  if (!parts.cuts_words) parts.with_prefix = load_processor(serialized, file);
  if (static_cast<std::size_t>(parts.plain->GetPieceSize()) != spec.pieces.size()) {
    fail_in_file(file, "",
                 "the sentencepiece library reads " + std::to_string(parts.plain->GetPieceSize()) +
                     " pieces, the file has " + std::to_string(spec.pieces.size()));
  }

  TokenTable table;
  table.vocabulary = build_vocabulary(spec, file);
  parts.added_tokens =
      AddedTokenMatcher(collect_added_tokens(spec, config, added_tokens_file, table.vocabulary));
  table.bos = named_token(config.bos_token, parts.plain->bos_id(), table.vocabulary);
  table.eos = named_token(config.eos_token, parts.plain->eos_id(), table.vocabulary);
  if (spec.remove_extra_whitespaces) {
    table.leading_space = LeadingSpace::kStripAll;
  } else if (spec.add_dummy_prefix) {
    table.leading_space = LeadingSpace::kStripOne;
  }
  add_surrounding(config, table, parts.surrounding);

  parts.metaspace = table.vocabulary.find(kMetaspace);
  parts.unk_name = config.unk_token.value_or("<unk>");
  std::vector<int> ids;
  encode_with(*parts.plain, parts.unk_name, ids);
  parts.unk_length = ids.size();
  return std::make_shared<const SentencePieceTokenizer>(std::move(table), std::move(parts));
}

std::shared_ptr<const Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "tokenizer.model";
  return make_sentencepiece_tokenizer(
      read_tokenizer_file(path, kMaxTokenizerFileBytes), path.string(),
      read_tokenizer_config(dir / "tokenizer_config.json"), dir / "added_tokens.json");
}

}  // namespace moba
