#include "server/openai/stream_chunks.h"

#include "server/openai/engine_requests.h"
#include "server/openai/logprobs.h"

namespace moba::openai {
namespace {

std::string json_string(std::string_view text) { return to_text(OrderedJson(text)); }

}  // namespace

ChunkWriter::ChunkWriter(const ApiRequest& request, const ResponseInfo& info,
                         const TokenizerHandle& tokenizer)
    : request_(request),
      tokenizer_(tokenizer),
      chat_(request.endpoint == Endpoint::kChatCompletions),
      with_logprobs_(request.sampling.logprobs.has_value()),
      choices_(num_engine_requests(request) * static_cast<std::size_t>(request.sampling.n)) {
  OrderedJson head{{"id", info.id},
                   {"object", chat_ ? "chat.completion.chunk" : "text_completion"},
                   {"created", info.created},
                   {"model", info.model}};
  head_ = "data: " + to_text(head);
  head_.back() = ',';
}

void ChunkWriter::open(std::size_t choice, std::string& out) const {
  out += head_;
  out += "\"choices\":[{\"index\":";
  out += std::to_string(choice);
  out += ',';
}

void ChunkWriter::close(std::string& out) const {
  out += request_.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n";
}

// The common case, without a tree of JSON.
void ChunkWriter::append_text(std::size_t choice, std::string_view text, std::string& out) {
  open(choice, out);
  out += chat_ ? "\"delta\":{\"content\":" : "\"text\":";
  out += json_string(text);
  out += chat_ ? "},\"logprobs\":null,\"finish_reason\":null"
               : ",\"logprobs\":null,\"finish_reason\":null";
  close(out);
  choices_[choice].text_bytes += text.size();
}

void ChunkWriter::append_chunk(std::size_t choice, std::string_view text,
                               const OrderedJson& logprobs, const OrderedJson& more,
                               std::string& out) {
  OrderedJson json;
  if (chat_) {
    json["delta"] = {{"content", text}};
  } else {
    json["text"] = text;
  }
  json["logprobs"] = logprobs;
  json["finish_reason"] = nullptr;
  json.update(more);
  open(choice, out);
  const std::string members = to_text(json);
  out.append(members, 1, members.size() - 2);
  close(out);
}

void ChunkWriter::begin(std::size_t choice, const std::vector<std::int32_t>& prompt_ids,
                        const std::vector<TokenLogprob>& prompt_logprobs, std::string& out) {
  choices_[choice].begun = true;
  if (chat_) {
    open(choice, out);
    out +=
        "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
        "\"finish_reason\":null";
    close(out);
    return;
  }
  if (!request_.echo) return;
  const Result<std::string> text = tokenizer_.decode(prompt_ids);
  OrderedJson logprobs;
  if (with_logprobs_ && !prompt_ids.empty()) {
    CompletionLogprobs list(tokenizer_);
    list.add_first(prompt_ids.front());
    for (const TokenLogprob& item : prompt_logprobs) list.add(item);
    choices_[choice].logprob_characters = list.offset();
    logprobs = list.json();
  }
  append_chunk(choice, text.ok() ? text.value() : "", logprobs, OrderedJson::object(), out);
}

OrderedJson ChunkWriter::logprobs_of(std::size_t choice, const ChunkToken& token) {
  if (!with_logprobs_ || !token.logprob) return nullptr;
  if (chat_) return chat_logprobs({*token.logprob}, tokenizer_);
  CompletionLogprobs list(tokenizer_, choices_[choice].logprob_characters);
  list.add(*token.logprob);
  choices_[choice].logprob_characters = list.offset();
  return list.json();
}

void ChunkWriter::token(std::size_t choice, const ChunkToken& token, std::string& out) {
  const bool plain = !request_.return_token_ids && !(with_logprobs_ && token.logprob);
  if (plain) {
    if (!token.text.empty()) append_text(choice, token.text, out);
    return;
  }
  OrderedJson more = OrderedJson::object();
  if (request_.return_token_ids) more["token_ids"] = OrderedJson::array({token.token_id});
  append_chunk(choice, token.text, logprobs_of(choice, token), more, out);
  choices_[choice].text_bytes += token.text.size();
}

void ChunkWriter::finish(std::size_t choice, std::string_view text, FinishReason reason,
                         const std::string& stop_reason, std::string& out) {
  const std::size_t sent = choices_[choice].text_bytes;
  if (text.size() > sent) append_text(choice, text.substr(sent), out);
  open(choice, out);
  out += chat_ ? "\"delta\":{},\"logprobs\":null" : "\"text\":\"\",\"logprobs\":null";
  out += ",\"finish_reason\":\"";
  out += finish_reason_name(reason);
  out += "\",\"stop_reason\":";
  out += stop_reason.empty() ? "null" : json_string(stop_reason);
  close(out);
}

void ChunkWriter::usage(const std::vector<const RequestOutput*>& outputs, std::string& out) const {
  if (!request_.include_usage) return;
  out += head_;
  out += "\"choices\":[],\"usage\":" + to_text(usage_json(outputs)) + "}\n\n";
}

std::string error_event(const ApiError& error) {
  return "data: " + to_text(error_json(error)) + "\n\n";
}

}  // namespace moba::openai
