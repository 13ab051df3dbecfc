// Log probabilities in the two forms that the API has.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moba/request.h"
#include "moba/tokenizer.h"
#include "server/openai/api_error.h"

namespace moba::openai {

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of a completion, filled token by
// token. Offsets count characters from the first token, which stands at `offset`.
class CompletionLogprobs {
 public:
  explicit CompletionLogprobs(const TokenizerHandle& tokenizer, std::int64_t offset = 0)
      : tokenizer_(tokenizer), offset_(offset) {}

  // A token that nothing stands before has no log probability.
  void add_first(std::int32_t token_id);
  void add(const TokenLogprob& logprob);
  const OrderedJson& json() const { return json_; }
  // Of a token after these.
  std::int64_t offset() const { return offset_; }

 private:
  void add_token(std::int32_t token_id);

  const TokenizerHandle& tokenizer_;
  std::int64_t offset_;
  OrderedJson json_{{"tokens", OrderedJson::array()},
                    {"token_logprobs", OrderedJson::array()},
                    {"top_logprobs", OrderedJson::array()},
                    {"text_offset", OrderedJson::array()}};
};

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]} of a chat completion.
OrderedJson chat_logprobs(const std::vector<TokenLogprob>& logprobs,
                          const TokenizerHandle& tokenizer);

// [null, {"<id>": {"logprob", "rank", "decoded_token"}}, ...] of a prompt. `rank` is null for a
// token that is not among the most probable ones.
OrderedJson prompt_logprobs_json(const std::vector<TokenLogprob>& logprobs,
                                 const TokenizerHandle& tokenizer);

// Number of characters that begin in a piece of UTF-8.
std::int64_t count_characters(std::string_view text);

}  // namespace moba::openai
