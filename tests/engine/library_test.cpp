// What programs that link the library rely on beside plain generation: streams, waiting, ends, the
// tokenizer, the log, and what a checkpoint holds.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "moba/engine.h"
#include "moba/inspect.h"
#include "moba/log.h"
#include "moba/version.h"
#include "tests/engine/embedded_engine.h"
#include "tests/engine/engine_test_util.h"
#include "tests/model/temp_files.h"

namespace moba {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using test::embedded_config;
using test::embedded_dir;
using test::greedy_request;
using test::make_engine;

std::string model_fixture(const std::string& name) {
  return std::string(MOBA_TEST_DATA_DIR) + "/models/" + name;
}

TEST_CASE("a stream gives the tokens and text of the output", "[library]") {
  const auto engine = make_engine();
  Request request = greedy_request({1, 318, 1247}, 12);
  request.sampling.logprobs = 2;
  request.sampling.n = 2;
  auto stream = engine->stream(request);
  REQUIRE(stream.ok());
  std::vector<std::vector<std::int32_t>> ids(2);
  std::vector<std::string> texts(2);
  while (auto token = stream.value().next()) {
    const auto sample = static_cast<std::size_t>(token->sample);
    ids[sample].push_back(token->token_id);
    texts[sample] += token->text;
    REQUIRE(token->logprob.has_value());
    CHECK(token->logprob->token_id == token->token_id);
    CHECK(token->logprob->top.size() == 2);
  }
  CHECK_FALSE(stream.value().next().has_value());
  REQUIRE(stream.value().result().ok());
  const RequestOutput& output = stream.value().result().value();
  CHECK(ids[0] == output.token_ids);
  CHECK(texts[0] == output.text);
  CHECK(ids[1] == output.more_samples.at(0).token_ids);
  CHECK(texts[1] == output.more_samples.at(0).text);
  CHECK(ids[0].size() == 12);
  CHECK_FALSE(engine->stream(Request{}).ok());
}

TEST_CASE("a stream that goes cancels its request; one that is moved does not", "[library]") {
  const auto engine = make_engine();
  RequestHandle handle;
  {
    auto stream = engine->stream(greedy_request({1, 318}, 1500));
    REQUIRE(stream.ok());
    TokenStream moved = std::move(stream.value());
    CHECK(moved.next().has_value());
    handle = moved.handle();
    CHECK_FALSE(handle.done());
  }
  REQUIRE(handle.wait().ok());
  CHECK(handle.wait().value().finish_reason == FinishReason::kCancelled);
  CHECK(engine->stats().num_pages_in_use == 0);

  // It may outlive the engine, with the tokens it has.
  auto own = make_engine();
  auto stream = own->stream(greedy_request({1, 318}, 1500));
  REQUIRE(stream.ok());
  REQUIRE(stream.value().next().has_value());
  own.reset();
  while (stream.value().next()) {
  }
  CHECK(stream.value().result().value().finish_reason == FinishReason::kCancelled);
}

TEST_CASE("waiting for a token and for the end ends with its time", "[library]") {
  const auto engine = make_engine();
  // The one that runs keeps the other from starting.
  EngineConfig config = embedded_config();
  config.scheduler.max_num_seqs = 1;
  const auto narrow = make_engine(config);
  auto first = narrow->stream(greedy_request({1, 318}, 2000));
  auto second = narrow->stream(greedy_request({1, 318}, 2));
  REQUIRE((first.ok() && second.ok()));
  StreamedToken token;
  CHECK(second.value().next_for(milliseconds(5), token) == TokenStream::Next::kTimeout);
  CHECK(second.value().next_for(milliseconds(-5), token) == TokenStream::Next::kTimeout);
  CHECK_FALSE(second.value().handle().wait_for(milliseconds(5)));
  first.value().cancel();
  CHECK(second.value().next_for(duration<double>(1e300), token) == TokenStream::Next::kToken);
  CHECK(second.value().handle().wait_for(duration<double>(1e300)));
  CHECK(second.value().next_for(milliseconds(5), token) == TokenStream::Next::kToken);
  CHECK(second.value().next_for(milliseconds(5), token) == TokenStream::Next::kEnd);
  CHECK_FALSE(RequestHandle());
}

TEST_CASE("a callback that waits for its request is refused", "[library]") {
  const auto engine = make_engine();
  RequestHandle other;
  std::string message;
  bool waited = true;
  Callbacks callbacks;
  callbacks.on_token = [&](const TokenEvent&) {
    other = engine->submit(greedy_request({1, 318}, 2)).value();
    const auto& result = other.wait();
    message = result.status().message();
    waited = other.wait_for(milliseconds(1));
    return true;
  };
  REQUIRE(engine->generate(greedy_request({1, 318}, 1), callbacks).ok());
  CHECK_THAT(message, Contains("from a callback"));
  CHECK_FALSE(waited);
  CHECK(other.wait().ok());
}

TEST_CASE("a checkpoint without a tokenizer serves token ids", "[library]") {
  EngineConfig config;
  config.model = model_fixture("llama_mha");
  std::string warning;
  set_log_handler([&](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning) warning = line;
  });
  const auto engine = make_engine(config);
  set_log_handler({});
  CHECK_THAT(warning, Contains("has no tokenizer"));
  const TokenizerHandle& tokenizer = engine->tokenizer();
  CHECK_FALSE(tokenizer.available());
  CHECK(tokenizer.vocab_size() == 0);
  CHECK_THAT(tokenizer.encode("a").status().message(),
             Contains("llama_mha") && Contains("tokenizer.json"));
  CHECK(tokenizer.decode({3}).status().code() == StatusCode::kInvalidArgument);
  CHECK(tokenizer.token_name(3).status().code() == StatusCode::kInvalidArgument);
  CHECK_FALSE(tokenizer.bos_id().has_value());

  Request request = greedy_request({1, 5, 9}, 6);
  auto output = engine->generate(request);
  REQUIRE(output.ok());
  CHECK(output.value().token_ids.size() == 6);
  CHECK(output.value().text.empty());

  // Stop tokens work; they have no name but their number.
  const std::int32_t second = output.value().token_ids[1];
  request.sampling.stop_token_ids = {second};
  output = engine->generate(request);
  REQUIRE(output.ok());
  CHECK(output.value().finish_reason == FinishReason::kStop);
  CHECK(output.value().stop_reason == std::to_string(second));

  Request text;
  text.prompt = "some text";
  CHECK_THAT(
      engine->generate(text).status().message(),
      Contains("holds neither tokenizer.json nor tokenizer.model") && Contains("only token ids"));
  request.sampling.stop = {"x"};
  CHECK_THAT(engine->generate(request).status().message(), Contains("stop strings"));
  CHECK_FALSE(TokenizerHandle::open(config.model).ok());
}

TEST_CASE("a broken tokenizer is refused still", "[library]") {
  const test::TempDir dir;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy(model_fixture("llama_mha") + "/" + name, dir.path() / name);
  }
  dir.write("tokenizer.json", "{");
  EngineConfig config;
  config.model = dir.path().string();
  const auto engine = Engine::create(config);
  REQUIRE_FALSE(engine.ok());
  CHECK(engine.status().code() == StatusCode::kInvalidCheckpoint);
  CHECK_THAT(engine.status().message(), Contains("tokenizer.json"));
}

TEST_CASE("inspection names tensors of any type and rank", "[library]") {
  const test::TempDir dir;
  std::filesystem::copy(model_fixture("llama_mha") + "/config.json", dir.path() / "config.json");
  dir.write(
      "model.safetensors",
      test::safetensors_file(R"({"a":{"dtype":"I8","shape":[2,3],"data_offsets":[0,6]},)"
                             R"("b":{"dtype":"F8_E4M3","shape":[1,2,1,2,1],"data_offsets":[6,10]},)"
                             R"("c":{"dtype":"BF16","shape":[1,1,1,1,2],"data_offsets":[10,14]},)"
                             R"("d":{"dtype":"U16","shape":[0,9],"data_offsets":[14,14]},)"
                             R"("e":{"dtype":"F32","shape":[],"data_offsets":[14,18]}})",
                             std::string(18, '\0')));
  const auto info = inspect_checkpoint(dir.path().string());
  INFO(info.status().message());
  REQUIRE(info.ok());
  const std::vector<TensorInfo>& tensors = info.value().tensors;
  REQUIRE(tensors.size() == 5);
  CHECK(tensors[0].dtype == "int8");
  CHECK(tensors[0].shape == std::vector<std::int64_t>{2, 3});
  CHECK(tensors[1].dtype == "float8_e4m3");
  CHECK(tensors[1].shape == std::vector<std::int64_t>{1, 2, 1, 2, 1});
  CHECK(tensors[2].dtype == "bfloat16");
  CHECK(tensors[2].shape.size() == 5);
  CHECK(tensors[3].dtype == "uint16");
  CHECK(tensors[4].dtype == "float32");
  CHECK(tensors[4].shape.empty());
  CHECK(info.value().weight_bytes == 18);
  CHECK(info.value().num_parameters == 6 + 4 + 2 + 0 + 1);
  CHECK(info.value().bytes_by_dtype.at("int8") == 6);
  CHECK(info.value().bytes_by_dtype.at("float8_e4m3") == 4);
}

TEST_CASE("the log goes to the handler at its level", "[library]") {
  std::vector<std::pair<LogLevel, std::string>> lines;
  set_log_handler([&](LogLevel level, std::string_view line) { lines.emplace_back(level, line); });
  EngineConfig config;
  config.model = model_fixture("llama_mha");
  set_log_level(LogLevel::kInfo);
  make_engine(config);
  bool told = false;
  for (const auto& [level, line] : lines) {
    told = told || (level == LogLevel::kInfo && line.find("max_model_len") != std::string::npos);
  }
  CHECK(told);
  set_log_level(LogLevel::kOff);
  lines.clear();
  make_engine(config);
  CHECK(lines.empty());
  set_log_handler({});
  set_log_level(LogLevel::kWarning);
}

TEST_CASE("the version is that of the project", "[library]") {
  CHECK(std::count(version(), version() + std::strlen(version()), '.') == 2);
}

}  // namespace
}  // namespace moba
