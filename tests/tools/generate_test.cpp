// moba generate, run as users run it.
#include <signal.h>

#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/tools/process.h"

namespace moba::test {
namespace {

using Json = nlohmann::json;

constexpr const char* kPrompt = "It was a dark and stormy night";

std::vector<std::string> generate(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"generate", "--model", embedded_model()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

RunResult run_ok(const std::vector<std::string>& more, const RunOptions& options = {}) {
  RunResult result = run_moba(generate(more), options);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  return result;
}

Json run_json(std::vector<std::string> more, const RunOptions& options = {}) {
  more.emplace_back("--json");
  const RunResult result = run_ok(more, options);
  // One object on one line.
  REQUIRE(result.out.find('\n') == result.out.size() - 1);
  return Json::parse(result.out);
}

TEST_CASE("text goes to standard output and all else to standard error", "[program]") {
  const RunResult result = run_ok({"-p", kPrompt, "-n", "12"});
  const Json json = run_json({"-p", kPrompt, "-n", "12"});
  CHECK_FALSE(result.out.empty());
  CHECK(result.out == json.at("text").get<std::string>());
  for (const char* line : {"moba: engine: ", "moba: prompt: ", "moba: output: 12 tokens",
                           "moba: peak memory: ", "tok/s", "first token after"}) {
    CAPTURE(line, result.err);
    CHECK(result.err.find(line) != std::string::npos);
  }
  // No bar and no colours where standard error is no terminal.
  CHECK(result.err.find('\033') == std::string::npos);
  CHECK(result.err.find('\r') == std::string::npos);
}

TEST_CASE("--quiet leaves the text alone, --verbose tells the settings in effect", "[program]") {
  CHECK(run_ok({"-p", kPrompt, "-n", "2", "-q"}).err.empty());
  const RunResult verbose = run_ok({"-p", kPrompt, "-n", "2", "--threads", "1", "-v"});
  const std::size_t at = verbose.err.find("settings: ");
  REQUIRE(at != std::string::npos);
  const std::string line = verbose.err.substr(at + 10, verbose.err.find('\n', at) - at - 10);
  const Json settings = Json::parse(line);
  CHECK(settings.at("threads") == 1);
  CHECK(settings.at("sampling").at("max_tokens") == 2);
  // The checkpoint's generation_config.json says greedy.
  CHECK(settings.at("sampling").at("temperature") == 0);
  // The line is a configuration file that gives the same again.
  const TempDir dir;
  const RunResult again =
      run_moba({"generate", "--config", dir.write("c.json", line), "-p", kPrompt});
  CHECK(again.out == verbose.out);
}

TEST_CASE("the prompt comes from flag, file, standard input and ids alike", "[program]") {
  const TempDir dir;
  const std::string expected = run_ok({"-p", kPrompt, "-n", "8"}).out;
  CHECK(run_ok({"-f", dir.write("p", kPrompt), "-n", "8"}).out == expected);
  // One newline at the end of a file is the editor's.
  CHECK(run_ok({"-f", dir.write("n", std::string(kPrompt) + "\n"), "-n", "8"}).out == expected);
  RunOptions with_input;
  with_input.input = std::string(kPrompt) + "\n";
  CHECK(run_ok({"-n", "8"}, with_input).out == expected);
  CHECK(run_ok({"-f", "-", "-n", "8"}, with_input).out == expected);

  RunResult ids = run_moba({"tokenize", "-m", embedded_model(), "-p", kPrompt});
  REQUIRE(ids.exit_code == 0);
  CHECK(run_ok({"--prompt-ids", dir.write("ids", ids.out), "-n", "8"}).out == expected);
  ids = run_moba({"tokenize", "-m", embedded_model(), "-p", kPrompt, "--json"});
  const std::string array = Json::parse(ids.out).at("token_ids").dump();
  CHECK(run_ok({"--prompt-ids", dir.write("ids.json", array), "-n", "8"}).out == expected);
}

TEST_CASE("--json holds ids, counts, metrics and the attention in effect", "[program]") {
  const Json json = run_json({"-p", kPrompt, "-n", "5", "--logprobs", "2"});
  CHECK(json.at("token_ids").size() == 5);
  CHECK(json.at("num_output_tokens") == 5);
  CHECK(json.at("num_prompt_tokens") > 4);
  CHECK(json.at("finish_reason") == "length");
  CHECK(json.at("stop_reason").is_null());
  REQUIRE(json.at("logprobs").size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    const Json& item = json.at("logprobs")[i];
    CHECK(item.at("token_id") == json.at("token_ids")[i]);
    CHECK(item.at("logprob").get<double>() <= 0);
    REQUIRE(item.at("top").size() == 2);
    // Greedy: the chosen token is the most probable one.
    CHECK(item.at("top")[0].at("token_id") == item.at("token_id"));
    CHECK(item.at("top")[0].at("logprob").get<double>() >=
          item.at("top")[1].at("logprob").get<double>());
  }
  const Json& layers = json.at("attention").at("layers");
  REQUIRE(layers.size() == 10);
  CHECK(layers[7] == "moba");
  CHECK(layers[8] == "full");
  CHECK(json.at("attention").at("moba_block_size") == 64);
  for (const char* key : {"prompt_seconds", "prompt_tokens_per_second", "decode_seconds",
                          "time_to_first_token_seconds", "decode_tokens_per_second"}) {
    CAPTURE(key);
    REQUIRE(json.at("metrics").at(key).is_number());
    CHECK(json.at("metrics").at(key).get<double>() >= 0);
  }
  CHECK(json.at("metrics").at("memory").at("peak_bytes").get<double>() > 1e6);
}

TEST_CASE("numbers are never NaN, even for one token", "[program]") {
  for (const char* n : {"0", "1"}) {
    const RunResult result = run_ok({"-p", kPrompt, "-n", n, "--json"});
    CHECK(Json::parse(result.out).at("num_output_tokens") == std::stoi(n));
    CHECK(result.err.find("nan") == std::string::npos);
    CHECK(result.err.find("inf") == std::string::npos);
  }
}

TEST_CASE("the same seed gives the same text, another one another", "[program]") {
  const std::vector<std::string> base{"-p", kPrompt, "-n", "24", "--temp", "1.2"};
  const auto with_seed = [&](const std::string& seed) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), {"--seed", seed});
    return run_ok(arguments);
  };
  const std::string text = with_seed("7").out;
  CHECK(with_seed("7").out == text);
  CHECK(with_seed("8").out != text);
  // A drawn seed is told, and repeats the run.
  const RunResult drawn = run_ok(base);
  const std::size_t at = drawn.err.find("moba: seed: ");
  REQUIRE(at != std::string::npos);
  const std::string seed = drawn.err.substr(at + 12, drawn.err.find('\n', at) - at - 12);
  CHECK(with_seed(seed).out == drawn.out);
}

TEST_CASE("flags, files and the checkpoint's defaults win in this order", "[program]") {
  const TempDir dir;
  const std::string file =
      dir.write("c.json", R"({"temperature": 0.5, "top_k": 7, "max_tokens": 3, "seed": 1})");
  const Json json = run_json({"-p", kPrompt, "--config", file, "--top-k", "9"});
  const Json& sampling = json.at("sampling");
  CHECK(sampling.at("temperature") == 0.5);  // the file over the checkpoint's greedy
  CHECK(sampling.at("top_k") == 9);          // the command line over the file
  CHECK(sampling.at("max_tokens") == 3);
  CHECK(sampling.at("top_p") == 1.0);
  // A later file wins over an earlier one.
  const std::string later = dir.write("later.json", R"({"sampling": {"max_tokens": 2}})");
  CHECK(run_json({"-p", kPrompt, "--config", file, "--config", later}).at("token_ids").size() == 2);
  // Aliases are the same flag.
  CHECK(run_json({"-p", kPrompt, "--config", file, "--temp", "0.25", "--n-predict", "1"})
            .at("sampling")
            .at("temperature") == 0.25);
  CHECK(run_json({"-p", kPrompt, "--config", file, "--greedy"}).at("sampling").at("temperature") ==
        0);
}

TEST_CASE("every preset runs", "[program]") {
  for (const char* preset :
       {"cpu-default", "exact-float32", "full-attention", "moba-any-checkpoint", "story"}) {
    CAPTURE(preset);
    const std::string path = repo_path("configs/" + std::string(preset) + ".json");
    const Json json = run_json({"-p", kPrompt, "-n", "3", "--config", path});
    CHECK(json.at("token_ids").size() == 3);
    const Json& attention = json.at("attention");
    if (preset == std::string("exact-float32")) CHECK(json.at("dtype") == "float32");
    if (preset == std::string("full-attention")) CHECK(attention.at("layers")[0] == "full");
    if (preset == std::string("moba-any-checkpoint")) {
      CHECK(attention.at("moba_block_size") == 512);
      CHECK(attention.at("layers")[6] == "moba");
      CHECK(attention.at("layers")[7] == "full");
    }
  }
}

TEST_CASE("attention flags reach the engine", "[program]") {
  const Json json =
      run_json({"-p", kPrompt, "-n", "1", "--attention", "moba", "--full-attention-layers", "0,9",
                "--moba-topk", "3", "--moba-block-size", "128", "--decode-attention", "full"});
  const Json& attention = json.at("attention");
  CHECK(attention.at("moba_block_size") == 128);
  CHECK(attention.at("layer_topk") == Json({0, 3, 3, 3, 3, 3, 3, 3, 3, 0}));
  CHECK(attention.at("decode") == "full");
}

TEST_CASE("output ends at stop strings, which are not printed", "[program]") {
  const std::string text = run_ok({"-p", kPrompt, "-n", "24"}).out;
  const std::string stop = text.substr(text.size() / 2, 4);
  const std::string before = text.substr(0, text.find(stop));
  const Json json = run_json({"-p", kPrompt, "-n", "24", "--stop", stop, "--stop", "[no,such]"});
  CHECK(json.at("text") == before);
  CHECK(json.at("finish_reason") == "stop");
  CHECK(json.at("stop_reason") == stop);
  CHECK(json.at("sampling").at("stop")[1] == "[no,such]");
  CHECK(run_ok({"-p", kPrompt, "-n", "24", "--stop", stop}).out == before);
  CHECK(run_ok({"-p", kPrompt, "-n", "24", "--stop", stop, "--include-stop-str-in-output"}).out ==
        before + stop);
}

TEST_CASE("output ends at stop tokens", "[program]") {
  const Json whole = run_json({"-p", kPrompt, "-n", "8"});
  const std::string id = std::to_string(whole.at("token_ids")[3].get<int>());
  const Json json = run_json({"-p", kPrompt, "-n", "8", "--stop-token-ids", "3," + id});
  CHECK(json.at("token_ids").size() <= 4);
  CHECK(json.at("finish_reason") == "stop");
}

TEST_CASE("a logit bias decides", "[program]") {
  const Json json = run_json({"-p", kPrompt, "-n", "3", "--logit-bias", "414:1000"});
  CHECK(json.at("token_ids") == Json({414, 414, 414}));
}

TEST_CASE("output that is no UTF-8 stays valid JSON", "[program]") {
  // Tokens 3 to 258 are single bytes; 0x80 and above are no characters by themselves.
  const Json json = run_json({"-p", kPrompt, "-n", "2", "--logit-bias", "200:1000"});
  CHECK(json.at("token_ids") == Json({200, 200}));
  CHECK(json.at("text").get<std::string>().find("\xEF\xBF\xBD") != std::string::npos);
}

TEST_CASE("Ctrl-C and SIGTERM keep what was generated and end with 128 + signal", "[program]") {
  for (const int signal : {SIGINT, SIGTERM}) {
    RunOptions options;
    options.signal = signal;
    options.signal_output = 20;
    const RunResult result =
        run_moba(generate({"-p", kPrompt, "-n", "-1", "--ignore-eos"}), options);
    CAPTURE(signal, result.err);
    CHECK(result.exit_code == 128 + signal);
    CHECK(result.out.size() >= 20);
    CHECK(result.err.find("interrupted") != std::string::npos);
    CHECK(result.errors().empty());
  }
}

TEST_CASE("Ctrl-C with --json still gives the object", "[program]") {
  RunOptions options;
  options.signal = SIGINT;
  options.signal_after = "engine: ";
  const RunResult result =
      run_moba(generate({"-p", kPrompt, "-n", "-1", "--ignore-eos", "--json"}), options);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 130);
  // The signal may come before the request begins; then there is nothing to print.
  if (!result.out.empty()) CHECK(Json::parse(result.out).at("finish_reason") == "cancelled");
}

TEST_CASE("Ctrl-C ends the reading of a long prompt", "[program]") {
  RunOptions options;
  options.signal = SIGINT;
  options.signal_after = "engine: ";
  const RunResult result =
      run_moba(generate({"-f", repo_path("configs/text/pride-and-prejudice-16k.txt"), "--attention",
                         "full", "--dtype", "float32", "-b", "128", "-n", "1"}),
               options);
  CAPTURE(result.err);
  CHECK(result.exit_code == 130);
  CHECK(result.err.find("0.0 tok/s") == std::string::npos);
}

TEST_CASE("a second Ctrl-C ends at once", "[program]") {
  RunOptions options;
  options.signal = SIGINT;
  options.signal_output = 1;
  options.signal_count = 2;
  const RunResult result = run_moba(generate({"-p", kPrompt, "-n", "-1", "--ignore-eos"}), options);
  CHECK(result.exit_code == 130);
}

TEST_CASE("a closed output ends quietly, a full disk with an error", "[program]") {
  RunOptions closed;
  closed.closed_stdout = true;
  const RunResult pipe = run_moba(generate({"-p", kPrompt, "-n", "-1", "-q"}), closed);
  CHECK(pipe.exit_code == 128 + SIGPIPE);
  CHECK(pipe.err.empty());
  RunOptions full;
  full.stdout_path = "/dev/full";
  const RunResult disk = run_moba(generate({"-p", kPrompt, "-n", "-1", "-q"}), full);
  CHECK(disk.exit_code == 1);
  CHECK(disk.err == "moba: error: cannot write to standard output: No space left on device\n");
}

}  // namespace
}  // namespace moba::test
