#include "server/openai/engine_requests.h"

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

}  // namespace

std::size_t num_engine_requests(const ApiRequest& request) {
  return request.endpoint == Endpoint::kChatCompletions ? 1 : request.prompts.size();
}

Request engine_request(const ApiRequest& request, std::size_t index, const PromptContext& context) {
  if (request.endpoint == Endpoint::kChatCompletions) {
    refuse("messages", "the checkpoint has no chat template");
  }
  const std::string document =
      request.prompt_file ? context.read_file(*request.prompt_file) : std::string();
  Request result = common_part(request);
  set_prompt(request, request.prompts[index], document, context.tokenizer, result);
  return result;
}

}  // namespace moba::openai
