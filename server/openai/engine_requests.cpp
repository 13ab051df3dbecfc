#include "server/openai/engine_requests.h"

#include <algorithm>
#include <utility>

namespace moba::openai {
namespace {

Request common_part(const ApiRequest& request) {
  Request result;
  result.sampling = request.sampling;
  result.attention = request.attention;
  result.cache_salt = request.cache_salt;
  result.priority = request.priority;
  return result;
}

void set_prompt(const ApiRequest& request, const Prompt& prompt, const std::string& document,
                const TokenizerHandle& tokenizer, Request& result) {
  if (!prompt.ids.empty()) {
    result.prompt_ids = prompt.ids;
    return;
  }
  std::string text = document + prompt.text;
  if (text.empty()) refuse("prompt", "prompt is empty");
  if (request.add_special_tokens) {
    result.prompt = std::move(text);
    result.parse_special_tokens = request.parse_special_tokens;
  } else {
    Result<std::vector<std::int32_t>> ids =
        tokenizer.encode(text, /*add_special_tokens=*/false, request.parse_special_tokens);
    if (!ids.ok()) refuse("prompt", ids.status().message());
    result.prompt_ids = std::move(ids.value());
  }
}

// The document stands before the text of the first message of a user.
std::vector<std::int32_t> chat_prompt(const ChatInput& chat, const std::string& document,
                                      const ChatTemplateHandle* chat_template) {
  if (chat_template == nullptr) refuse("messages", "the checkpoint has no chat template");
  ChatTemplateOptions options;
  options.variables = chat.template_kwargs.dump();
  options.add_generation_prompt = chat.add_generation_prompt;
  options.continue_final_message = chat.continue_final_message;
  Json messages = chat.messages;
  if (!document.empty()) {
    const auto user = std::find_if(messages.begin(), messages.end(), [](const Json& message) {
      return message.at("role") == "user" && message.contains("content");
    });
    if (user == messages.end()) refuse("prompt_file", "prompt_file needs a message of a user");
    (*user)["content"] = document + user->at("content").get_ref<const std::string&>();
  }
  Result<std::vector<std::int32_t>> ids =
      chat_template->encode(messages.dump(-1, ' ', false, Json::error_handler_t::replace), options);
  if (!ids.ok()) throw to_api_error(ids.status());
  return std::move(ids.value());
}

}  // namespace

std::size_t num_engine_requests(const ApiRequest& request) {
  return request.endpoint == Endpoint::kChatCompletions ? 1 : request.prompts.size();
}

Request engine_request(const ApiRequest& request, std::size_t index, const PromptContext& context) {
  const std::string document =
      request.prompt_file ? context.read_file(*request.prompt_file) : std::string();
  Request result = common_part(request);
  if (request.endpoint == Endpoint::kChatCompletions) {
    result.prompt_ids = chat_prompt(request.chat, document, context.chat_template);
    return result;
  }
  set_prompt(request, request.prompts[index], document, context.tokenizer, result);
  return result;
}

}  // namespace moba::openai
