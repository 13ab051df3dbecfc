#include "server/openai/api_error.h"

#include <array>
#include <string_view>

namespace moba::openai {
namespace {

constexpr int kBadRequest = 400;
constexpr int kInternalError = 500;
constexpr int kUnavailable = 503;

const char* type_of(int status) {
  return status >= 400 && status < 500 ? "invalid_request_error" : "server_error";
}

OrderedJson or_null(const std::string& text) {
  return text.empty() ? OrderedJson(nullptr) : OrderedJson(text);
}

// The engine's messages about a parameter start with its name.
std::string leading_parameter(std::string_view message) {
  constexpr std::array<std::string_view, 16> kParameters = {
      "temperature",      "top_k",      "top_p",          "min_p",    "repetition_penalty",
      "presence_penalty", "n",          "stop_token_ids", "logprobs", "frequency_penalty",
      "logit_bias",       "min_tokens", "max_tokens",     "stop",     "prompt_logprobs",
      "moba_topk"};
  for (const std::string_view name : kParameters) {
    const std::string_view rest = message.substr(0, name.size() + 1);
    if (rest.size() == name.size() + 1 && rest.substr(0, name.size()) == name &&
        (rest.back() == ' ' || rest.back() == '[' || rest.back() == ':')) {
      return std::string(name);
    }
  }
  return message.substr(0, 10) == "the prompt" ? "prompt" : "";
}

}  // namespace

void refuse(const std::string& param, const std::string& message) {
  throw ApiError(kBadRequest, message, param);
}

ApiError to_api_error(const Status& status) {
  const std::string& message = status.message();
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      return {kBadRequest, message, leading_parameter(message)};
    case StatusCode::kResourceExhausted:
      return {kUnavailable, message, "", "resource_exhausted"};
    case StatusCode::kCancelled:
      return {kUnavailable, message, "", "cancelled"};
    default:
      return {kInternalError, message};
  }
}

OrderedJson error_json(const ApiError& error) {
  OrderedJson body{{"message", error.what()},
                   {"type", type_of(error.status())},
                   {"param", or_null(error.param())},
                   {"code", or_null(error.code())}};
  return {{"error", std::move(body)}};
}

std::string to_text(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMaxShown = 60;
  std::string_view shown = text.substr(0, kMaxShown);
  // Not in the middle of a character.
  while (shown.size() < text.size() && !shown.empty() &&
         (static_cast<unsigned char>(text[shown.size()]) & 0xC0) == 0x80) {
    shown.remove_suffix(1);
  }
  std::string out = to_text(OrderedJson(shown));
  if (shown.size() < text.size()) out.insert(out.size() - 1, "...");
  return out;
}

}  // namespace moba::openai
