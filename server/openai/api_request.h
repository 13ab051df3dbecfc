// The bodies of /v1/completions and /v1/chat/completions, read and checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moba/request.h"
#include "moba/sampling_params.h"
#include "server/openai/api_error.h"

namespace moba::openai {

enum class Endpoint { kCompletions, kChatCompletions };

// "/v1/completions" and "/v1/chat/completions"; absent for any other path.
std::optional<Endpoint> endpoint_of(std::string_view path);

// Text, or token ids as they are if there are any.
struct Prompt {
  std::string text;
  std::vector<std::int32_t> ids;
};

// What a chat template is given. `messages` is an array of objects with a role and, where they have
// them, content (a string), name, tool_calls, tool_call_id and reasoning_content.
struct ChatInput {
  Json messages;
  Json template_kwargs = Json::object();
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

// A body as the engine needs it. Plain data.
struct ApiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string model;  // as the body names it; may be empty
  // /v1/completions: at least one, unless there is a prompt_file.
  std::vector<Prompt> prompts;
  // A file whose text stands before the prompt, or before the text of the first message of a user.
  std::optional<std::string> prompt_file;
  ChatInput chat;  // /v1/chat/completions

  SamplingParams sampling;  // n included
  AttentionOverride attention;
  std::string cache_salt;
  int priority = 0;
  bool add_special_tokens = true;     // what the tokenizer adds by itself, around a text
  bool parse_special_tokens = false;  // text such as "</s>" in a completion's prompt is that token
  bool echo = false;
  bool return_token_ids = false;
  bool stream = false;
  bool include_usage = false;  // of stream_options

  // Fields that this API does not have, which were ignored.
  std::vector<std::string> unknown_fields;
};

struct ParseOptions {
  // What holds where the body says nothing. Without max_tokens a completion has 16, as in OpenAI's
  // API, and a chat completion as many as fit.
  SamplingParams defaults;
  bool parse_special_tokens = false;
  // Whether prompt_file is a field; a body from another machine has no say over this one's files.
  bool allow_prompt_file = false;
};

// Throws ApiError (400) naming the field: for a value of a wrong type, for what is missing, and for
// what the API knows but the engine cannot do (tools, response_format, images ...). The ranges of
// sampling parameters are the engine's to check.
ApiRequest parse_request(Endpoint endpoint, const Json& body, const ParseOptions& options);

// The text or the ids of a request's beginning, for finding requests that begin alike: equal
// beginnings of prompts have equal beginnings here. prompt_file is not part of it.
std::string prompt_bytes(const ApiRequest& request);

}  // namespace moba::openai
