#include "tokenizer/bpe_tokenizer.h"

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/utf8.h"

namespace moba {

namespace {

class BpeTokenizer final : public TokenizerBase {
 public:
  BpeTokenizer(TokenTable table, BpeParts parts)
      : TokenizerBase(std::move(table)), parts_(std::move(parts)) {}

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options) const override {
    check_text_size(text);
    std::string repaired;
    if (!utf8::is_valid(text)) {
      if (options.special_ranges != nullptr) throw std::runtime_error("the text is not UTF-8");
      repaired = utf8::replace_invalid(text);
      text = repaired;
    }
    std::vector<TokenId> out;
    out.reserve(text.size() / 3 + 8);
    const SurroundingTokens& around = parts_.surrounding;
    if (options.add_special_tokens) {
      out.insert(out.end(), around.before.begin(), around.before.end());
    }
    BpeWordEncoder words(*parts_.model, text.size());
    const bool specials = options.parse_special_tokens;
    for (const AddedTokenMatcher::Segment& raw :
         parts_.raw_tokens.find(text, specials, options.special_ranges)) {
      if (raw.id >= 0) {
        out.push_back(raw.id);
      } else {
        // Normalising moves bytes, so what is the template's is not known behind it.
        encode_raw(text.substr(raw.begin, raw.end - raw.begin), raw.begin == 0,
                   specials && options.special_ranges == nullptr, words, out);
      }
    }
    if (options.add_special_tokens) {
      out.insert(out.end(), around.after.begin(), around.after.end());
    }
    return out;
  }

 private:
  // A stretch between added tokens: normalise, look for the tokens that are matched after that, cut
  // into words, merge.
  void encode_raw(std::string_view text, bool at_text_start, bool specials, BpeWordEncoder& words,
                  std::vector<TokenId>& out) const {
    std::string normalized;
    if (parts_.normalizer != nullptr) {
      normalized = text;
      parts_.normalizer->apply(normalized);
      text = normalized;
    }
    const auto encode_word = [&](std::string_view word, bool) { words.encode(word, out); };
    for (const AddedTokenMatcher::Segment& segment :
         parts_.normalized_tokens.find(text, specials)) {
      if (segment.id >= 0) {
        out.push_back(segment.id);
        continue;
      }
      parts_.pretokenizer.run(text.substr(segment.begin, segment.end - segment.begin),
                              at_text_start && segment.begin == 0, encode_word);
    }
  }

  BpeParts parts_;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_bpe_tokenizer(TokenTable table, BpeParts parts) {
  return std::make_shared<const BpeTokenizer>(std::move(table), std::move(parts));
}

}  // namespace moba
