#include "server/openai/api_response.h"

#include "server/openai/logprobs.h"

namespace moba::openai {
namespace {

// One sample of one prompt; borrows.
struct Sample {
  const std::vector<std::int32_t>& token_ids;
  const std::string& text;
  FinishReason finish_reason;
  const std::string& stop_reason;
  const std::vector<TokenLogprob>& logprobs;
};

std::vector<Sample> samples_of(const RequestOutput& output) {
  std::vector<Sample> samples{
      {output.token_ids, output.text, output.finish_reason, output.stop_reason, output.logprobs}};
  for (const SampleOutput& more : output.more_samples) {
    samples.push_back(
        {more.token_ids, more.text, more.finish_reason, more.stop_reason, more.logprobs});
  }
  return samples;
}

std::string prompt_text(const RequestOutput& output, const TokenizerHandle& tokenizer) {
  const Result<std::string> text = tokenizer.decode(output.prompt_ids);
  return text.ok() ? text.value() : "";
}

OrderedJson completion_logprobs(const ApiRequest& request, const RequestOutput& output,
                                const Sample& sample, const TokenizerHandle& tokenizer) {
  CompletionLogprobs list(tokenizer);
  if (request.echo) {
    list.add_first(output.prompt_ids.front());
    for (const TokenLogprob& item : output.prompt_logprobs) list.add(item);
  }
  for (const TokenLogprob& item : sample.logprobs) list.add(item);
  return list.json();
}

OrderedJson choice_json(const ApiRequest& request, const RequestOutput& output,
                        const Sample& sample, std::size_t index, const TokenizerHandle& tokenizer) {
  const bool chat = request.endpoint == Endpoint::kChatCompletions;
  const bool with_logprobs = request.sampling.logprobs.has_value();
  OrderedJson choice{{"index", index}};
  if (chat) {
    choice["message"] = {{"role", "assistant"}, {"content", sample.text}, {"refusal", nullptr}};
    choice["logprobs"] =
        with_logprobs ? chat_logprobs(sample.logprobs, tokenizer) : OrderedJson(nullptr);
  } else {
    choice["text"] = request.echo ? prompt_text(output, tokenizer) + sample.text : sample.text;
    choice["logprobs"] = with_logprobs ? completion_logprobs(request, output, sample, tokenizer)
                                       : OrderedJson(nullptr);
  }
  choice["finish_reason"] = finish_reason_name(sample.finish_reason);
  choice["stop_reason"] =
      sample.stop_reason.empty() ? OrderedJson(nullptr) : OrderedJson(sample.stop_reason);
  if (request.sampling.prompt_logprobs && !request.echo && !chat) {
    choice["prompt_logprobs"] = prompt_logprobs_json(output.prompt_logprobs, tokenizer);
  }
  if (request.return_token_ids) {
    choice["token_ids"] = sample.token_ids;
    if (!chat) choice["prompt_token_ids"] = output.prompt_ids;
  }
  return choice;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return "abort";
  }
}

OrderedJson usage_json(const std::vector<const RequestOutput*>& outputs) {
  std::int64_t prompt = 0;
  std::int64_t cached = 0;
  std::int64_t completion = 0;
  for (const RequestOutput* output : outputs) {
    prompt += output->metrics.num_prompt_tokens;
    cached += output->metrics.num_cached_tokens;
    completion += output->metrics.num_output_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

OrderedJson response_json(const ApiRequest& request,
                          const std::vector<const RequestOutput*>& outputs,
                          const ResponseInfo& info, const TokenizerHandle& tokenizer) {
  const bool chat = request.endpoint == Endpoint::kChatCompletions;
  OrderedJson body{{"id", info.id},
                   {"object", chat ? "chat.completion" : "text_completion"},
                   {"created", info.created},
                   {"model", info.model}};
  OrderedJson choices = OrderedJson::array();
  for (const RequestOutput* output : outputs) {
    for (const Sample& sample : samples_of(*output)) {
      choices.push_back(choice_json(request, *output, sample, choices.size(), tokenizer));
    }
  }
  body["choices"] = std::move(choices);
  if (chat) {
    const RequestOutput& output = *outputs.front();
    if (request.sampling.prompt_logprobs) {
      body["prompt_logprobs"] = prompt_logprobs_json(output.prompt_logprobs, tokenizer);
    }
    if (request.return_token_ids) body["prompt_token_ids"] = output.prompt_ids;
  }
  body["usage"] = usage_json(outputs);
  return body;
}

}  // namespace moba::openai
