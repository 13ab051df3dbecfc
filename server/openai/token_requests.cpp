#include "server/openai/token_requests.h"

#include <utility>

#include "server/openai/chat_fields.h"
#include "server/openai/json_fields.h"

namespace moba::openai {
namespace {

template <typename T>
T take(Result<T> result) {
  if (!result.ok()) throw to_api_error(result.status());
  return std::move(result.value());
}

}  // namespace

OrderedJson tokenize(const Json& body, const PromptContext& context, std::int64_t max_model_len) {
  Fields fields(body);
  const auto special = fields.boolean("add_special_tokens");
  const bool with_strings = fields.boolean("return_token_strs").value_or(false);
  std::vector<std::int32_t> ids;
  if (const auto prompt = fields.string("prompt")) {
    ids = take(context.tokenizer.encode(*prompt, special.value_or(true)));
  } else if (fields.find("messages") != nullptr) {
    ApiRequest request;
    request.endpoint = Endpoint::kChatCompletions;
    read_chat_fields(fields, request.chat);
    ids = engine_request(request, 0, context).prompt_ids;
  } else {
    refuse("prompt", "prompt or messages is missing");
  }
  OrderedJson strings;
  if (with_strings) {
    strings = OrderedJson::array();
    for (const std::int32_t id : ids) strings.push_back(take(context.tokenizer.token_name(id)));
  }
  return {{"count", ids.size()},
          {"max_model_len", max_model_len},
          {"tokens", std::move(ids)},
          {"token_strs", std::move(strings)}};
}

OrderedJson detokenize(const Json& body, const TokenizerHandle& tokenizer) {
  Fields fields(body);
  const auto ids = fields.token_ids("tokens");
  if (!ids) refuse("tokens", "tokens is missing");
  return {{"prompt", take(tokenizer.decode(*ids, /*skip_special_tokens=*/false))}};
}

}  // namespace moba::openai
