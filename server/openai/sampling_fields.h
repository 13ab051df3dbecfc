// The fields that completions and chat completions share.
#pragma once

#include "server/openai/api_request.h"
#include "server/openai/json_fields.h"

namespace moba::openai {

// Sampling but for max_tokens and logprobs, attention, priority, cache_salt, streaming; refuses
// what the engine cannot do. `request.sampling` holds the defaults.
void read_common_fields(Fields& fields, ApiRequest& request);

}  // namespace moba::openai
