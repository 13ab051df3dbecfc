// Streaming detokenizer: token ids in, text out as soon as its characters are complete.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace moba {

// Never gives half a UTF-8 character: bytes that may still become one are held back. All that is
// given, and finish(), joined, equal utf8::replace_invalid(Tokenizer::decode(ids)). Cost per token
// depends on the token alone. Belongs to one thread.
class IncrementalDecoder {
 public:
  struct Options {
    bool skip_special_tokens = true;
    // The tokens go on a text that is already there (a prompt): a space at their start is kept, as
    // token_bytes() keeps it. Else they are a text of their own, as decode() takes them.
    bool continues_text = false;
  };

  // Keeps the tokenizer alive.
  explicit IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer)
      : IncrementalDecoder(std::move(tokenizer), Options()) {}
  IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, const Options& options);

  // The text that is complete now; may be empty. Valid UTF-8: a sequence that no byte can complete
  // any more stands as U+FFFD. Throws std::out_of_range for an id outside the vocabulary and then
  // changes nothing.
  std::string push(TokenId id);

  // The rest: U+FFFD if a character is left incomplete, else nothing. The decoder then stands at
  // the start of a new text with the options it was made with.
  std::string finish();

  // Bytes held back, at most 3.
  std::string_view pending() const { return pending_; }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  Options options_;
  LeadingSpace strip_;  // still to be done
  std::string pending_;
};

}  // namespace moba
