#include "server/openai/api_request.h"

#include "server/openai/chat_fields.h"
#include "server/openai/json_fields.h"
#include "server/openai/sampling_fields.h"

namespace moba::openai {
namespace {

constexpr int kDefaultCompletionTokens = 16;
constexpr std::size_t kMaxPrompts = 1024;

Prompt read_prompt(const Json& value, const std::string& name) {
  if (value.is_string()) return {value.get<std::string>(), {}};
  if (!value.is_array()) {
    refuse(name, name + " must be a string or an array of token ids, not " + kind_of(value));
  }
  Prompt prompt{"", to_token_ids(value, name)};
  if (prompt.ids.empty()) refuse(name, name + " is empty");
  return prompt;
}

// A string, an array of strings, an array of token ids, or an array of such arrays.
std::vector<Prompt> read_prompts(const Json& value) {
  const bool several = value.is_array() && !value.empty() && !value.front().is_number();
  if (!several) return {read_prompt(value, "prompt")};
  if (value.size() > kMaxPrompts) {
    refuse("prompt", "prompt has " + std::to_string(value.size()) + " prompts, and " +
                         std::to_string(kMaxPrompts) + " is the limit");
  }
  std::vector<Prompt> prompts;
  for (const Json& item : value) {
    prompts.push_back(read_prompt(item, "prompt[" + std::to_string(prompts.size()) + "]"));
  }
  return prompts;
}

void read_completion(Fields& fields, ApiRequest& request) {
  SamplingParams& params = request.sampling;
  if (const Json* prompt = fields.find("prompt")) {
    request.prompts = read_prompts(*prompt);
  } else if (!request.prompt_file) {
    refuse("prompt", "prompt is missing");
  }
  if (const auto count = fields.integer("max_tokens")) params.max_tokens = *count;
  if (!params.max_tokens) params.max_tokens = kDefaultCompletionTokens;
  if (const auto count = fields.integer("logprobs")) params.logprobs = *count;
  request.add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
  request.parse_special_tokens =
      fields.boolean("parse_special_tokens").value_or(request.parse_special_tokens);
  request.echo = fields.boolean("echo").value_or(false);
  // The echo of a prompt comes with its log probabilities.
  if (request.echo && params.logprobs && !params.prompt_logprobs) {
    params.prompt_logprobs = params.logprobs;
  }
  if (const auto best_of = fields.integer("best_of"); best_of && *best_of != params.n) {
    refuse("best_of", "best_of is " + std::to_string(*best_of) + " and n is " +
                          std::to_string(params.n) + "; only equal ones are supported");
  }
  if (!fields.string("suffix").value_or("").empty()) {
    refuse("suffix", "suffix is not supported");
  }
}

void read_chat(Fields& fields, ApiRequest& request) {
  SamplingParams& params = request.sampling;
  read_chat_fields(fields, request.chat);
  request.add_special_tokens = false;
  if (const auto count = fields.integer("max_tokens")) params.max_tokens = *count;
  if (const auto count = fields.integer("max_completion_tokens")) params.max_tokens = *count;
  const auto logprobs = fields.boolean("logprobs");
  const auto top = fields.integer("top_logprobs");
  if (logprobs) params.logprobs = *logprobs ? std::optional<int>(0) : std::nullopt;
  if (top && *top != 0) {
    if (!params.logprobs) refuse("top_logprobs", "top_logprobs needs logprobs to be true");
    params.logprobs = *top;
  }
}

}  // namespace

std::optional<Endpoint> endpoint_of(std::string_view path) {
  if (path == "/v1/completions") return Endpoint::kCompletions;
  if (path == "/v1/chat/completions") return Endpoint::kChatCompletions;
  return std::nullopt;
}

ApiRequest parse_request(Endpoint endpoint, const Json& body, const ParseOptions& options) {
  Fields fields(body);
  ApiRequest request;
  request.endpoint = endpoint;
  request.sampling = options.defaults;
  request.parse_special_tokens = options.parse_special_tokens;
  read_common_fields(fields, request);
  request.prompt_file = fields.string("prompt_file");
  if (request.prompt_file && !options.allow_prompt_file) {
    refuse("prompt_file", "prompt_file is not accepted in a request");
  }
  if (endpoint == Endpoint::kCompletions) {
    read_completion(fields, request);
  } else {
    read_chat(fields, request);
  }
  if (request.prompt_file && endpoint == Endpoint::kCompletions) {
    if (request.prompts.empty()) request.prompts.emplace_back();
    for (const Prompt& prompt : request.prompts) {
      if (!prompt.ids.empty()) refuse("prompt_file", "prompt_file goes with a prompt that is text");
    }
  }
  request.unknown_fields = fields.unknown();
  return request;
}

std::string prompt_bytes(const ApiRequest& request) {
  std::string bytes;
  if (request.endpoint == Endpoint::kChatCompletions) {
    for (const Json& message : request.chat.messages) {
      bytes += message.at("role").get_ref<const std::string&>();
      bytes += '\n';
      const auto content = message.find("content");
      if (content != message.end()) bytes += content->get_ref<const std::string&>();
      bytes += '\n';
    }
    return bytes;
  }
  const Prompt& prompt = request.prompts.front();
  if (prompt.ids.empty()) return prompt.text;
  for (const std::int32_t id : prompt.ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(id >> shift);
  }
  return bytes;
}

}  // namespace moba::openai
