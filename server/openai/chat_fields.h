// The messages of a chat completion.
#pragma once

#include "server/openai/api_request.h"
#include "server/openai/json_fields.h"

namespace moba::openai {

// messages, chat_template_kwargs and how the prompt ends.
void read_chat_fields(Fields& fields, ChatInput& chat);

}  // namespace moba::openai
