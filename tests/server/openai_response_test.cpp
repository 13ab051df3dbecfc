// Answers of the OpenAI API.
#include "server/openai/api_response.h"

#include "server/openai/engine_requests.h"
#include "server/openai/json_fields.h"
#include "server/openai/logprobs.h"
#include "tests/catch.h"

namespace moba::openai {
namespace {

const TokenizerHandle& tokenizer() {
  static const auto result =
      TokenizerHandle::open(std::string(MOBA_SOURCE_DIR) + "/configs/models/moba-books-19m");
  REQUIRE(result.ok());
  return result.value();
}

ApiRequest parse(Endpoint endpoint, const std::string& body) {
  return parse_request(endpoint, parse_object(body), {});
}

RequestOutput output_of(const std::string& prompt, const std::string& text) {
  RequestOutput output;
  output.prompt_ids = tokenizer().encode(prompt).value();
  output.token_ids = tokenizer().encode(text, /*add_special_tokens=*/false).value();
  output.text = text;
  output.finish_reason = FinishReason::kLength;
  output.metrics.num_prompt_tokens = static_cast<std::int64_t>(output.prompt_ids.size());
  output.metrics.num_output_tokens = static_cast<std::int64_t>(output.token_ids.size());
  output.metrics.num_cached_tokens = 1;
  return output;
}

TEST_CASE("a completion", "[openai]") {
  const ApiRequest request =
      parse(Endpoint::kCompletions, R"({"prompt": ["a", "b"], "n": 2, "return_token_ids": true})");
  RequestOutput first = output_of("a", "rain");
  first.more_samples.push_back({{5}, "snow", FinishReason::kStop, "</s>", {}});
  RequestOutput second = output_of("b", "sun");
  second.more_samples.push_back({{6}, "wind", FinishReason::kCancelled, "", {}});
  const OrderedJson json =
      response_json(request, {&first, &second}, {"cmpl-1", 1700000000, "m"}, tokenizer());
  CHECK(json.at("id") == "cmpl-1");
  CHECK(json.at("object") == "text_completion");
  CHECK(json.at("created") == 1700000000);
  CHECK(json.at("model") == "m");
  REQUIRE(json.at("choices").size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(json.at("choices")[i].at("index") == i);
  CHECK(json.at("choices")[1].at("text") == "snow");
  CHECK(json.at("choices")[1].at("finish_reason") == "stop");
  CHECK(json.at("choices")[1].at("stop_reason") == "</s>");
  CHECK(json.at("choices")[2].at("text") == "sun");
  CHECK(json.at("choices")[2].at("logprobs").is_null());
  CHECK(json.at("choices")[2].at("stop_reason").is_null());
  CHECK(json.at("choices")[2].at("token_ids") == OrderedJson(second.token_ids));
  CHECK(json.at("choices")[2].at("prompt_token_ids") == OrderedJson(second.prompt_ids));
  const OrderedJson& usage = json.at("usage");
  const std::int64_t prompt = first.metrics.num_prompt_tokens + second.metrics.num_prompt_tokens;
  CHECK(usage.at("prompt_tokens") == prompt);
  CHECK(usage.at("total_tokens") ==
        prompt + first.metrics.num_output_tokens + second.metrics.num_output_tokens);
  CHECK(usage.at("prompt_tokens_details").at("cached_tokens") == 2);
}

TEST_CASE("log probabilities of a completion, with its prompt", "[openai]") {
  const ApiRequest request =
      parse(Endpoint::kCompletions, R"({"prompt": "It", "logprobs": 1, "echo": true})");
  CHECK(request.sampling.prompt_logprobs == 1);
  RequestOutput output = output_of("It", "rained");
  REQUIRE(output.prompt_ids.size() >= 2);
  for (std::size_t i = 1; i < output.prompt_ids.size(); ++i) {
    output.prompt_logprobs.push_back({output.prompt_ids[i], -0.5F, {{1, -0.25F}}});
  }
  for (const std::int32_t id : output.token_ids) {
    output.logprobs.push_back({id, -std::numeric_limits<float>::infinity(), {}});
  }
  const OrderedJson json = response_json(request, {&output}, {}, tokenizer());
  const OrderedJson& choice = json.at("choices")[0];
  CHECK(choice.at("text") == "Itrained");
  const OrderedJson& list = choice.at("logprobs");
  const std::size_t count = output.prompt_ids.size() + output.token_ids.size();
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    CHECK(list.at(key).size() == count);
  }
  CHECK(list.at("tokens")[0] == "<s>");
  CHECK(list.at("token_logprobs")[0].is_null());
  CHECK(list.at("token_logprobs")[1] == -0.5);
  CHECK(list.at("top_logprobs")[1].at("<s>") == -0.25);
  CHECK(list.at("token_logprobs")[count - 1] == -9999.0);
  CHECK(list.at("text_offset")[1] == 3);
}

TEST_CASE("a chat completion", "[openai]") {
  const ApiRequest request = parse(
      Endpoint::kChatCompletions,
      R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 1})");
  RequestOutput output = output_of("a", "rain");
  output.logprobs.push_back({output.token_ids[0], -0.125F, {{2, -2.0F}}});
  const OrderedJson json = response_json(request, {&output}, {}, tokenizer());
  CHECK(json.at("object") == "chat.completion");
  const OrderedJson& choice = json.at("choices")[0];
  CHECK(choice.at("message") ==
        OrderedJson({{"role", "assistant"}, {"content", "rain"}, {"refusal", nullptr}}));
  const OrderedJson& content = choice.at("logprobs").at("content");
  REQUIRE(content.size() == 1);
  CHECK(content[0].at("logprob") == -0.125);
  CHECK(content[0].at("top_logprobs")[0].at("token") == "</s>");
  CHECK(content[0].at("top_logprobs")[0].at("bytes") == OrderedJson({60, 47, 115, 62}));
}

TEST_CASE("log probabilities of a prompt", "[openai]") {
  const OrderedJson json =
      prompt_logprobs_json({{5, -1.0F, {{7, -0.5F}, {5, -1.0F}}}}, tokenizer());
  REQUIRE(json.size() == 2);
  CHECK(json[0].is_null());
  CHECK(json[1].at("7").at("rank") == 1);
  CHECK(json[1].at("5").at("rank") == 2);
  CHECK(json[1].at("5").at("logprob") == -1.0);
  CHECK(prompt_logprobs_json({{5, -1.0F, {{7, -0.5F}}}}, tokenizer())[1]
            .at("5")
            .at("rank")
            .is_null());
}

TEST_CASE("parts of characters are spelt out", "[openai]") {
  CHECK(count_characters("a\xC3\xA9") == 2);
  // The bytes of a character that the vocabulary lacks are tokens of their own.
  CompletionLogprobs list(tokenizer());
  std::int64_t characters = 0;
  const auto ids = tokenizer().encode("\xF0\x9F\xA6\x8A", /*add_special_tokens=*/false).value();
  for (const std::int32_t id : ids) {
    list.add_first(id);
    characters += count_characters(tokenizer().token_bytes(id).value());
  }
  const OrderedJson& tokens = list.json().at("tokens");
  CHECK(tokens.back() == "bytes:\\x8a");
  CHECK_FALSE(to_text(list.json()).empty());
  CHECK(characters <= 2);
}

TEST_CASE("requests to the engine", "[openai]") {
  ParseOptions options;
  options.allow_prompt_file = true;
  const auto parse_with_file = [&](const std::string& body) {
    return parse_request(Endpoint::kCompletions, parse_object(body), options);
  };
  std::string asked;
  const PromptContext context{tokenizer(), nullptr, [&](const std::string& path) {
                                asked = path;
                                return std::string("The document. ");
                              }};
  const ApiRequest request =
      parse_with_file(R"({"prompt_file": "doc.txt", "prompt": ["Why?", "How?"], "n": 2,
                          "cache_salt": "s", "priority": 3, "attention": "moba"})");
  CHECK(num_engine_requests(request) == 2);
  const Request second = engine_request(request, 1, context);
  CHECK(asked == "doc.txt");
  CHECK(second.prompt == "The document. How?");
  CHECK(second.sampling.n == 2);
  CHECK(second.cache_salt == "s");
  CHECK(second.priority == 3);
  CHECK(second.attention.mode == AttentionMode::kMoba);
  CHECK(engine_request(parse_with_file(R"({"prompt_file": "d"})"), 0, context).prompt ==
        "The document. ");
  const Request bare =
      engine_request(parse_with_file(R"({"prompt": "</s>", "add_special_tokens": false,
                          "parse_special_tokens": true})"),
                     0, context);
  CHECK(bare.prompt.empty());
  CHECK(bare.prompt_ids == tokenizer().encode("</s>", false, true).value());
  CHECK_THROWS_AS(parse_with_file(R"({"prompt_file": "d", "prompt": [1]})"), ApiError);
  CHECK_THROWS_AS(engine_request(parse_with_file(R"({"prompt": ""})"), 0, context), ApiError);
}

}  // namespace
}  // namespace moba::openai
