// What came of a request, as the API answers it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moba/tokenizer.h"
#include "server/openai/api_request.h"

namespace moba::openai {

struct ResponseInfo {
  std::string id;            // "cmpl-..." or "chatcmpl-..."
  std::int64_t created = 0;  // seconds since 1970
  std::string model;         // as served
};

// The body of the answer. `outputs` has one entry for each prompt (one for a chat completion), in
// order; choice i * n + j is sample j of prompt i.
OrderedJson response_json(const ApiRequest& request,
                          const std::vector<const RequestOutput*>& outputs,
                          const ResponseInfo& info, const TokenizerHandle& tokenizer);

// {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}.
OrderedJson usage_json(const std::vector<const RequestOutput*>& outputs);

// "stop" or "length"; "abort" for an output that was cancelled.
const char* finish_reason_name(FinishReason reason);

}  // namespace moba::openai
