#include "tokenizer/incremental_decoder.h"

#include <utility>

#include "tokenizer/utf8.h"

namespace moba {

namespace {

LeadingSpace strip_at_start(const Tokenizer& tokenizer,
                            const IncrementalDecoder::Options& options) {
  return options.continues_text ? LeadingSpace::kKeep : tokenizer.leading_space();
}

}  // namespace

IncrementalDecoder::IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                                       const Options& options)
    : tokenizer_(std::move(tokenizer)),
      options_(options),
      strip_(strip_at_start(*tokenizer_, options_)) {}

std::string IncrementalDecoder::push(TokenId id) {
  const std::string bytes = tokenizer_->token_bytes(id, options_.skip_special_tokens);
  std::string_view added = bytes;
  while (strip_ != LeadingSpace::kKeep && !added.empty()) {
    if (added.front() != ' ') {
      strip_ = LeadingSpace::kKeep;
      break;
    }
    added.remove_prefix(1);
    if (strip_ == LeadingSpace::kStripOne) strip_ = LeadingSpace::kKeep;
  }
  pending_.append(added);

  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const utf8::Decoded next = utf8::decode(rest);
    if (next.truncated) break;
    const auto length = static_cast<std::size_t>(next.length);
    if (next.valid) {
      out.append(rest.substr(0, length));
    } else {
      utf8::append(out, utf8::kReplacement);
    }
    rest.remove_prefix(length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string IncrementalDecoder::finish() {
  std::string out;
  if (!pending_.empty()) utf8::append(out, utf8::kReplacement);
  pending_.clear();
  strip_ = strip_at_start(*tokenizer_, options_);
  return out;
}

}  // namespace moba
