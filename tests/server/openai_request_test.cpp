// Bodies of the OpenAI API: what they come to, and how they are refused.
#include "server/openai/api_request.h"

#include "server/openai/engine_requests.h"
#include "server/openai/json_fields.h"
#include "tests/catch.h"

namespace moba::openai {
namespace {

ApiRequest parse(Endpoint endpoint, const std::string& body, const ParseOptions& options = {}) {
  return parse_request(endpoint, parse_object(body), options);
}

ApiRequest completion(const std::string& body, const ParseOptions& options = {}) {
  return parse(Endpoint::kCompletions, body, options);
}

ApiRequest chat(const std::string& body) { return parse(Endpoint::kChatCompletions, body); }

// The refusal as "param: message".
std::string refusal(Endpoint endpoint, const std::string& body) {
  try {
    parse(endpoint, body);
  } catch (const ApiError& error) {
    CHECK(error.status() == 400);
    return error.param() + ": " + error.what();
  }
  return "accepted";
}

// Of a completion that has a prompt and one more field.
std::string field_refusal(const std::string& field) {
  return refusal(Endpoint::kCompletions, R"({"prompt": "a", )" + field + "}");
}

constexpr const char* kHello = R"({"messages": [{"role": "user", "content": "Hello"}])";
std::string chat_refusal(const std::string& field) {
  return refusal(Endpoint::kChatCompletions, std::string(kHello) + ", " + field + "}");
}

TEST_CASE("every field of a completion arrives", "[openai]") {
  const ApiRequest request = completion(R"({
    "model": "m", "prompt": "Once", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
    "min_p": 0.1, "n": 3, "best_of": 3, "stop": ["a", "b"], "seed": -1, "logprobs": 2,
    "logit_bias": {"15": -100, "2": 1.5}, "presence_penalty": 0.25, "frequency_penalty": -0.25,
    "repetition_penalty": 1.5, "stop_token_ids": [3, 4], "ignore_eos": true, "min_tokens": 2,
    "skip_special_tokens": false, "include_stop_str_in_output": true, "prompt_logprobs": 1,
    "attention": "full", "moba_topk": 4, "priority": -3, "cache_salt": "me", "echo": true,
    "add_special_tokens": false, "parse_special_tokens": true, "return_token_ids": true,
    "stream": true, "stream_options": {"include_usage": true}, "user": "u", "suffix": null,
    "response_format": {"type": "text"}, "tools": []
  })");
  const SamplingParams& s = request.sampling;
  CHECK(request.model == "m");
  REQUIRE(request.prompts.size() == 1);
  CHECK(request.prompts[0].text == "Once");
  CHECK(s.max_tokens == 7);
  CHECK(s.temperature == 0.5F);
  CHECK(s.top_p == 0.9F);
  CHECK(s.top_k == 40);
  CHECK(s.min_p == 0.1F);
  CHECK(s.n == 3);
  CHECK(s.stop == std::vector<std::string>{"a", "b"});
  CHECK(s.seed == ~std::uint64_t{0});
  CHECK(s.logprobs == 2);
  CHECK(s.logit_bias == std::map<std::int32_t, float>{{2, 1.5F}, {15, -100.0F}});
  CHECK(s.presence_penalty == 0.25F);
  CHECK(s.frequency_penalty == -0.25F);
  CHECK(s.repetition_penalty == 1.5F);
  CHECK(s.stop_token_ids == std::vector<std::int32_t>{3, 4});
  CHECK(s.ignore_eos);
  CHECK(s.min_tokens == 2);
  CHECK_FALSE(s.skip_special_tokens);
  CHECK(s.include_stop_str_in_output);
  CHECK(s.prompt_logprobs == 1);
  CHECK(request.attention.mode == AttentionMode::kFull);
  CHECK(request.attention.moba_topk == 4);
  CHECK(request.priority == -3);
  CHECK(request.cache_salt == "me");
  CHECK(request.echo);
  CHECK_FALSE(request.add_special_tokens);
  CHECK(request.parse_special_tokens);
  CHECK(request.return_token_ids);
  CHECK(request.stream);
  CHECK(request.include_usage);
  CHECK(request.unknown_fields.empty());
}

TEST_CASE("what a body leaves out is the default", "[openai]") {
  ParseOptions options;
  options.defaults.temperature = 0.25F;
  ApiRequest request = completion(R"({"prompt": "a", "temperature": null})", options);
  CHECK(request.sampling.temperature == 0.25F);
  CHECK(request.sampling.max_tokens == 16);
  CHECK(request.add_special_tokens);
  options.defaults.max_tokens = 99;
  CHECK(completion(R"({"prompt": "a"})", options).sampling.max_tokens == 99);
  CHECK_FALSE(chat(std::string(kHello) + "}").sampling.max_tokens.has_value());
  CHECK(chat(std::string(kHello) + R"(, "max_tokens": 3})").sampling.max_tokens == 3);
  CHECK(chat(std::string(kHello) + R"(, "max_tokens": 3, "max_completion_tokens": 4})")
            .sampling.max_tokens == 4);
}

TEST_CASE("prompts are texts, ids, or several of them", "[openai]") {
  CHECK(completion(R"({"prompt": [1, 2, 3]})").prompts[0].ids ==
        std::vector<std::int32_t>{1, 2, 3});
  const auto texts = completion(R"({"prompt": ["a", "b"]})").prompts;
  REQUIRE(texts.size() == 2);
  CHECK(texts[1].text == "b");
  const auto ids = completion(R"({"prompt": [[1], [2, 3]]})").prompts;
  REQUIRE(ids.size() == 2);
  CHECK(ids[1].ids == std::vector<std::int32_t>{2, 3});
  const auto refused = [](const char* body) { return refusal(Endpoint::kCompletions, body); };
  CHECK(refused("{}") == "prompt: prompt is missing");
  CHECK(refused(R"({"prompt": null})") == "prompt: prompt is missing");
  CHECK(refused(R"({"prompt": []})") == "prompt: prompt is empty");
  CHECK(refused(R"({"prompt": 5})") ==
        "prompt: prompt must be a string or an array of token ids, not 5");
  CHECK(refused(R"({"prompt": [1, "a"]})") ==
        "prompt[1]: prompt[1] must be a whole number, not the string \"a\"");
  CHECK(refused(R"({"prompt": ["a", 1]})") ==
        "prompt[1]: prompt[1] must be a string or an array of token ids, not 1");
  CHECK(refused(R"({"prompt": [1, -1]})").find("prompt[1] is -1, not in 0 .. ") !=
        std::string::npos);
  CHECK(refused(R"({"prompt": [3000000000]})").find("prompt[0] is 3000000000") !=
        std::string::npos);
  std::string many = R"({"prompt": [)";
  for (int i = 0; i < 1024; ++i) many += "\"a\",";
  CHECK(refused((many + "\"a\"]}").c_str()) ==
        "prompt: prompt has 1025 prompts, and 1024 is the limit");
}

TEST_CASE("values of a wrong type are refused with the field's name", "[openai]") {
  CHECK(field_refusal(R"("temperature": "hot")") ==
        "temperature: temperature must be a number, not the string \"hot\"");
  CHECK(field_refusal(R"("temperature": 1e300)") ==
        "temperature: temperature is 1e+300, which is too large");
  CHECK(field_refusal(R"("top_k": 1.5)") == "top_k: top_k must be a whole number, not 1.5");
  CHECK(field_refusal(R"("n": 99999999999)") ==
        "n: n is 99999999999, not in -2147483648 .. 2147483647");
  CHECK(field_refusal(R"("n": 18446744073709551615)").find("n is 18446744073709551615") !=
        std::string::npos);
  CHECK(field_refusal(R"("max_tokens": 2.0)") == "accepted");
  CHECK(field_refusal(R"("ignore_eos": 1)") ==
        "ignore_eos: ignore_eos must be true or false, not 1");
  CHECK(field_refusal(R"("stop": ["a", 1])") == "stop[1]: stop[1] must be a string, not 1");
  CHECK(field_refusal(R"("stop": 1)") ==
        "stop: stop must be a string or an array of strings, not 1");
  CHECK(field_refusal(R"("stop_token_ids": "2")").rfind("stop_token_ids: ", 0) == 0);
  CHECK(field_refusal(R"("logit_bias": [1])").rfind("logit_bias: ", 0) == 0);
  CHECK(field_refusal(R"("logit_bias": {"a": 1})") ==
        "logit_bias: logit_bias: \"a\" is no token id");
  CHECK(field_refusal(R"("logit_bias": {"1": "x"})").rfind("logit_bias.1: ", 0) == 0);
  CHECK(field_refusal(R"("attention": "sparse")") ==
        "attention: attention is \"sparse\", not one of auto, full, moba");
  CHECK(field_refusal(R"("stream_options": 1)") ==
        "stream_options: stream_options must be an object, not 1");
  CHECK(field_refusal(R"("stream_options": {"include_usage": 1})")
            .rfind("stream_options.include_usage: ", 0) == 0);
  CHECK(field_refusal(R"("model": {"a": 1})") == "model: model must be a string, not an object");
}

TEST_CASE("what the engine cannot do is refused, what nobody knows is named", "[openai]") {
  CHECK(field_refusal(R"("best_of": 2)").rfind("best_of: ", 0) == 0);
  CHECK(field_refusal(R"("suffix": "x")") == "suffix: suffix is not supported");
  CHECK(field_refusal(R"("response_format": {"type": "json_object"})") ==
        "response_format: response_format \"json_object\" is not supported, only text");
  CHECK(field_refusal(R"("guided_json": {})") == "guided_json: guided_json is not supported");
  CHECK(field_refusal(R"("prompt_file": "x")").rfind("prompt_file: ", 0) == 0);
  CHECK(chat_refusal(R"("tools": [{"type": "function"}])") == "tools: tools are not supported");
  CHECK(chat_refusal(R"("tool_choice": "required")") ==
        "tool_choice: tool_choice is not supported");
  CHECK(chat_refusal(R"("tool_choice": "auto")") == "accepted");
  CHECK(chat_refusal(R"("chat_template": "x")").rfind("chat_template: ", 0) == 0);
  CHECK(completion(R"({"prompt": "a", "zeal": 1, "frobnicate": {}})").unknown_fields ==
        std::vector<std::string>{"frobnicate", "zeal"});
}

TEST_CASE("messages", "[openai]") {
  const ApiRequest request = chat(R"({"messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
     "name": "Jo"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "x"}]},
    {"role": "tool", "content": "4", "tool_call_id": "x"}],
    "chat_template_kwargs": {"enable_thinking": false}, "logprobs": true, "top_logprobs": 3})");
  REQUIRE(request.chat.messages.size() == 4);
  CHECK(request.chat.messages[1].at("content") == "a\nb");
  CHECK(request.chat.messages[1].at("name") == "Jo");
  CHECK_FALSE(request.chat.messages[2].contains("content"));
  CHECK(request.chat.template_kwargs.at("enable_thinking") == false);
  CHECK(request.chat.add_generation_prompt);
  CHECK(request.sampling.logprobs == 3);
  CHECK_FALSE(request.add_special_tokens);
  CHECK(num_engine_requests(request) == 1);

  const auto refused = [](const std::string& messages) {
    return refusal(Endpoint::kChatCompletions, R"({"messages": )" + messages + "}");
  };
  CHECK(refusal(Endpoint::kChatCompletions, "{}") == "messages: messages is missing");
  CHECK(refused("[]") == "messages: messages is empty");
  CHECK(refused("\"hi\"") == "messages: messages must be an array, not the string \"hi\"");
  CHECK(refused("[1]") == "messages[0]: messages[0] must be an object, not 1");
  CHECK(refused(R"([{"content": "a"}])") == "messages[0].role: messages[0].role is missing");
  CHECK(refused(R"([{"role": "user"}])") == "messages[0].content: messages[0].content is missing");
  CHECK(refused(R"([{"role": "user", "content": 1}])").rfind("messages[0].content: ", 0) == 0);
  CHECK(refused(R"([{"role": "user", "content": [{"type": "image_url"}]}])") ==
        "messages[0].content[0].type: messages[0].content[0].type is \"image_url\", and only text "
        "is supported");
  CHECK(chat_refusal(R"("top_logprobs": 2)") ==
        "top_logprobs: top_logprobs needs logprobs to be true");
  CHECK(chat_refusal(R"("continue_final_message": true, "add_generation_prompt": true)")
            .rfind("continue_final_message: ", 0) == 0);
}

TEST_CASE("texts that are no JSON objects", "[openai]") {
  const auto refused = [](const std::string& text) {
    try {
      parse_object(text);
    } catch (const ApiError& error) {
      CHECK(std::string(error.what()).find('\n') == std::string::npos);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refused("").rfind("not JSON: parse error at line 1, column 1", 0) == 0);
  CHECK(refused("{\"a\": }").rfind("not JSON: parse error at line 1, column 7", 0) == 0);
  CHECK(refused("{\"a\": \"\xff\"}").rfind("not JSON: ", 0) == 0);
  CHECK(refused("{\"a\": \"\\ud800\"}").rfind("not JSON: ", 0) == 0);
  CHECK(refused("{\"a\": 1e999}") == "not JSON: a number is out of range");
  CHECK(refused("[1]") == "expected a JSON object, got an array");
  CHECK(refused("{} x").rfind("not JSON: ", 0) == 0);
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  CHECK(refused("{\"a\": " + deep + "}") == "JSON nested 100001 deep, and 64 is the limit");
  const std::string fine = std::string(63, '[') + std::string(63, ']');
  CHECK(refused("{\"a\": " + fine + "}") == "accepted");
  // Brackets in strings do not count.
  CHECK(refused("{\"a\": \"" + std::string(1000, '[') + "\\\"[\"}") == "accepted");
}

TEST_CASE("errors as clients know them", "[openai]") {
  CHECK(to_text(error_json(ApiError(400, "n is 0", "n"))) ==
        R"({"error":{"message":"n is 0","type":"invalid_request_error","param":"n","code":null}})");
  const ApiError argument =
      to_api_error(Status(StatusCode::kInvalidArgument, "temperature is -1; it must be >= 0"));
  CHECK(argument.status() == 400);
  CHECK(argument.param() == "temperature");
  CHECK(to_api_error(Status(StatusCode::kInvalidArgument, "the prompt is empty")).param() ==
        "prompt");
  CHECK(to_api_error(Status(StatusCode::kInvalidArgument, "nothing known")).param().empty());
  CHECK(to_api_error(Status(StatusCode::kResourceExhausted, "full")).status() == 503);
  CHECK(to_api_error(Status(StatusCode::kInternal, "broken")).status() == 500);
  CHECK(in_quotes("a\n\"b\"") == R"("a\n\"b\"")");
  CHECK(in_quotes(std::string(59, 'a') + "\xC3\xA9x") == "\"" + std::string(59, 'a') + "...\"");
}

TEST_CASE("beginnings that are equal have equal bytes", "[openai]") {
  const auto bytes = [](const ApiRequest& request) { return prompt_bytes(request); };
  const auto starts = [](const std::string& a, const std::string& b) {
    return b.compare(0, a.size(), a) == 0;
  };
  CHECK(bytes(completion(R"({"prompt": "abc"})")) == "abc");
  CHECK(starts(bytes(completion(R"({"prompt": [1, 500]})")),
               bytes(completion(R"({"prompt": [1, 500, 7]})"))));
  CHECK(starts("user\nHello", bytes(chat(std::string(kHello) + "}"))));
}

}  // namespace
}  // namespace moba::openai
