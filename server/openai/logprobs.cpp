#include "server/openai/logprobs.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace moba::openai {
namespace {

// JSON has no infinity; clients take this for it.
constexpr float kLeastLogprob = -9999.0F;

float finite(float logprob) { return std::max(logprob, kLeastLogprob); }

std::string bytes_of(const TokenizerHandle& tokenizer, std::int32_t id) {
  const Result<std::string> bytes = tokenizer.token_bytes(id);
  return bytes.ok() ? bytes.value() : "";  // a model may have more logits than there are tokens
}

bool is_utf8(const std::string& bytes) {
  try {
    OrderedJson(bytes).dump();
    return true;
  } catch (const OrderedJson::type_error&) {
    return false;
  }
}

// The token's text; of a part of a character its bytes, as the API spells them.
std::string spelling(const TokenizerHandle& tokenizer, std::int32_t id) {
  std::string bytes = bytes_of(tokenizer, id);
  if (is_utf8(bytes)) return bytes;
  std::string text = "bytes:";
  for (const char c : bytes) {
    std::array<char, 8> hex{};
    std::snprintf(hex.data(), hex.size(), "\\x%02x", static_cast<unsigned char>(c));
    text += hex.data();
  }
  return text;
}

OrderedJson chat_token(const TokenizerHandle& tokenizer, std::int32_t id, float logprob) {
  const std::string bytes = bytes_of(tokenizer, id);
  OrderedJson list = OrderedJson::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {{"token", bytes}, {"logprob", finite(logprob)}, {"bytes", std::move(list)}};
}

OrderedJson ranked_token(const TokenizerHandle& tokenizer, std::int32_t id, float logprob,
                         OrderedJson rank) {
  return {{"logprob", finite(logprob)},
          {"rank", std::move(rank)},
          {"decoded_token", bytes_of(tokenizer, id)}};
}

}  // namespace

std::int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

void CompletionLogprobs::add_token(std::int32_t token_id) {
  json_["tokens"].push_back(spelling(tokenizer_, token_id));
  json_["text_offset"].push_back(offset_);
  offset_ += count_characters(bytes_of(tokenizer_, token_id));
}

void CompletionLogprobs::add_first(std::int32_t token_id) {
  add_token(token_id);
  json_["token_logprobs"].push_back(nullptr);
  json_["top_logprobs"].push_back(nullptr);
}

void CompletionLogprobs::add(const TokenLogprob& logprob) {
  add_token(logprob.token_id);
  json_["token_logprobs"].push_back(finite(logprob.logprob));
  OrderedJson top = OrderedJson::object();
  for (const auto& [id, value] : logprob.top) top[spelling(tokenizer_, id)] = finite(value);
  // The chosen token is among them always.
  top[spelling(tokenizer_, logprob.token_id)] = finite(logprob.logprob);
  json_["top_logprobs"].push_back(std::move(top));
}

OrderedJson chat_logprobs(const std::vector<TokenLogprob>& logprobs,
                          const TokenizerHandle& tokenizer) {
  OrderedJson content = OrderedJson::array();
  for (const TokenLogprob& item : logprobs) {
    OrderedJson token = chat_token(tokenizer, item.token_id, item.logprob);
    OrderedJson top = OrderedJson::array();
    for (const auto& [id, value] : item.top) top.push_back(chat_token(tokenizer, id, value));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}};
}

OrderedJson prompt_logprobs_json(const std::vector<TokenLogprob>& logprobs,
                                 const TokenizerHandle& tokenizer) {
  OrderedJson list = OrderedJson::array();
  list.push_back(nullptr);
  for (const TokenLogprob& item : logprobs) {
    OrderedJson tokens = OrderedJson::object();
    tokens[std::to_string(item.token_id)] =
        ranked_token(tokenizer, item.token_id, item.logprob, nullptr);
    int rank = 0;
    for (const auto& [id, value] : item.top) {
      tokens[std::to_string(id)] = ranked_token(tokenizer, id, value, ++rank);
    }
    list.push_back(std::move(tokens));
  }
  return list;
}

}  // namespace moba::openai
