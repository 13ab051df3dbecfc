// The bodies of /tokenize and /detokenize, as vLLM has them.
#pragma once

#include <cstdint>

#include "server/openai/api_error.h"
#include "server/openai/engine_requests.h"

namespace moba::openai {

// {"prompt"} or {"messages"}, with add_special_tokens, return_token_strs and the fields of a chat,
// to {"count", "max_model_len", "tokens", "token_strs"}. Throws ApiError.
OrderedJson tokenize(const Json& body, const PromptContext& context, std::int64_t max_model_len);

// {"tokens"} to {"prompt"}. Throws ApiError.
OrderedJson detokenize(const Json& body, const TokenizerHandle& tokenizer);

}  // namespace moba::openai
