// moba perplexity, tokenize and inspect, and the help.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/tools/process.h"
#include "tools/moba/settings.h"

namespace moba::test {
namespace {

using Json = nlohmann::json;

RunResult run_ok(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
  RunResult result = run_moba(arguments, options);
  CAPTURE(arguments, result.err);
  REQUIRE(result.exit_code == 0);
  return result;
}

Json run_json(std::vector<std::string> arguments, const RunOptions& options = {}) {
  arguments.emplace_back("--json");
  return Json::parse(run_ok(arguments, options).out);
}

// Some ordinary text of the bundled book, about 0.3 tokens a byte.
std::string book_text(std::size_t bytes) {
  return read_file(repo_path("configs/text/pride-and-prejudice-16k.txt")).substr(0, bytes);
}

TEST_CASE("perplexity by position, and the same from ids", "[program]") {
  const TempDir dir;
  const std::string text = dir.write("text", book_text(12000));
  const std::vector<std::string> base{"perplexity", "-m", embedded_model(), "--dtype", "float32"};
  const auto measure = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_json(arguments);
  };
  const Json json = measure({"-f", text, "-n", "2500"});
  CHECK(json.at("num_tokens") == 2500);
  CHECK(json.at("num_scored_tokens") == 2499);
  CHECK(json.at("num_windows") == 1);
  const double nll = json.at("mean_nll").get<double>();
  // An English book: the model card has 2.8 to 3.6 for whole books.
  CHECK(nll > 2.0);
  CHECK(nll < 4.0);
  CHECK(json.at("perplexity").get<double>() == Approx(std::exp(nll)));
  CHECK(json.at("bits_per_byte").get<double>() ==
        Approx(nll * 2499 / std::log(2.0) / json.at("num_bytes").get<double>()));
  REQUIRE(json.at("buckets").size() == 3);
  double sum = 0;
  for (const Json& bucket : json.at("buckets")) {
    sum += bucket.at("mean_nll").get<double>() * bucket.at("num_tokens").get<double>();
  }
  CHECK(sum == Approx(nll * 2499));
  CHECK(json.at("buckets")[0].at("num_tokens") == 1023);
  CHECK(json.at("buckets")[2].at("num_tokens") == 452);

  const std::string ids = run_ok({"tokenize", "-m", embedded_model(), "-f", text}).out;
  const Json from_ids = measure({"--prompt-ids", dir.write("ids", ids), "-n", "2500"});
  CHECK(from_ids.at("mean_nll") == json.at("mean_nll"));
  CHECK(from_ids.at("num_bytes") == json.at("num_bytes"));
}

TEST_CASE("perplexity of the reference prompts in both modes", "[program]") {
  const TempDir dir;
  const Json golden = Json::parse(read_file(embedded_model() + "/golden.json"));
  REQUIRE(golden.at("prompts").size() >= 2);
  for (const Json& prompt : golden.at("prompts")) {
    const std::string ids = dir.write("ids", prompt.at("ids").dump());
    const Json json = run_json({"perplexity", "-m", embedded_model(), "--prompt-ids", ids,
                                "--compare", "--config", repo_path("configs/exact-float32.json")});
    CAPTURE(prompt.at("name").get<std::string>());
    const auto close_to = [](const Json& value) {
      return Approx(value.get<double>()).margin(1e-4).epsilon(0);
    };
    const Json& modes = prompt.at("modes");
    CHECK(json.at("mean_nll").get<double>() == close_to(modes.at("moba").at("mean_nll")));
    CHECK(json.at("full_attention").at("mean_nll").get<double>() ==
          close_to(modes.at("full").at("mean_nll")));
  }
}

TEST_CASE("perplexity in windows, with a stride and beside full attention", "[program]") {
  const TempDir dir;
  const std::string text = dir.write("text", book_text(5000));
  const std::vector<std::string> base{"perplexity", "-m", embedded_model(), "-f", text};
  const auto measure = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = base;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_json(arguments);
  };
  const Json whole = measure({});
  const Json windows = measure({"--window", "256"});
  const Json strided = measure({"--window", "256", "--stride", "64"});
  const int num_tokens = whole.at("num_tokens").get<int>();
  CHECK(num_tokens > 1024);
  CHECK(whole.at("num_bytes") == 5000);
  CHECK(windows.at("num_windows") == (num_tokens - 1 + 254) / 255);
  for (const Json& json : {whole, windows, strided}) {
    CHECK(json.at("num_scored_tokens") == num_tokens - 1);
  }
  // More context predicts better.
  CHECK(strided.at("mean_nll").get<double>() < windows.at("mean_nll").get<double>());

  const Json both = measure({"--compare", "--dtype", "float32"});
  const Json full = measure({"--attention", "full", "--dtype", "float32"});
  CHECK(both.at("full_attention").at("mean_nll").get<double>() ==
        Approx(full.at("mean_nll").get<double>()).margin(1e-5));
  CHECK(both.at("mean_nll") != full.at("mean_nll"));
  CHECK(both.at("moba_blocks_attended").get<double>() <
        both.at("moba_blocks_available").get<double>());
  CHECK(full.at("attention").at("layers")[0] == "full");

  const RunResult table = run_ok({"perplexity", "-m", embedded_model(), "-f", text, "--compare"});
  for (const char* word : {"position", "mean NLL", "perplexity", "0-1K", "all", "bits per byte"}) {
    CAPTURE(word, table.out);
    CHECK(table.out.find(word) != std::string::npos);
  }
}

TEST_CASE("perplexity refuses what it cannot measure", "[program]") {
  const auto refused = [](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> arguments{"perplexity", "-m", embedded_model()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const RunResult result = run_moba(arguments);
    CAPTURE(more, result.err);
    CHECK(result.exit_code == 1);
    REQUIRE(result.errors().size() == 1);
    CHECK(result.errors()[0].find(message) != std::string::npos);
  };
  refused({"-p", ""}, "at least 2");
  refused({"-p", "a b c d e f", "--window", "4", "--stride", "4"}, "stride of 4");
  refused({"-p", "a b c", "--compare", "--attention", "full"}, "--compare");
}

TEST_CASE("tokenize gives ids and takes them back", "[program]") {
  const std::vector<std::string> base{"tokenize", "-m", embedded_model()};
  const std::string text = "Call me Ishmael.\n\n  Caf\xC3\xA9 \xF0\x9F\x98\x80, 48213! ";
  RunOptions as_input;
  as_input.input = text;
  const RunResult ids = run_ok(base, as_input);
  CHECK(ids.err.empty());
  CHECK(ids.out.rfind("1 ", 0) == 0);
  CHECK(ids.out.back() == '\n');
  RunOptions ids_input;
  ids_input.input = ids.out;
  CHECK(run_ok({"tokenize", "-m", embedded_model(), "--decode"}, ids_input).out == text);

  const TempDir dir;
  const Json json =
      run_json({"tokenize", "-m", embedded_model(), "-f", dir.write("t", text), "--pieces"});
  CHECK(json.at("num_tokens") == json.at("token_ids").size());
  CHECK(json.at("pieces").size() == json.at("token_ids").size());
  CHECK(json.at("pieces")[0] == "<s>");
  const Json back =
      run_json({"tokenize", "-m", embedded_model(), "--decode", "-p", json.at("token_ids").dump()});
  CHECK(back.at("text") == text);
  CHECK(run_ok({"tokenize", "-m", embedded_model(), "-p", text, "--count"}).out ==
        std::to_string(json.at("num_tokens").get<int>()) + "\n");
}

TEST_CASE("tokenize and special tokens", "[program]") {
  const auto ids = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"tokenize", "-m", embedded_model(), "-p", "a</s>"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_json(arguments).at("token_ids").get<std::vector<int>>();
  };
  const std::vector<int> plain = ids({});
  CHECK(plain.front() == 1);
  CHECK(plain.back() != 2);
  CHECK(ids({"--no-bos"}) == std::vector<int>(plain.begin() + 1, plain.end()));
  CHECK(ids({"--add-special-tokens"}) == plain);
  CHECK(ids({"--parse-special"}).back() == 2);

  const auto text = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"tokenize", "-m", embedded_model(), "-d", "-p", "1 414 2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_ok(arguments).out;
  };
  CHECK(text({}).find("</s>") == std::string::npos);
  CHECK(text({"--no-skip-special-tokens"}).find("</s>") != std::string::npos);
}

TEST_CASE("tokenize --pieces keeps one token a line", "[program]") {
  const RunResult result =
      run_ok({"tokenize", "-m", embedded_model(), "-p", "a\nb", "--pieces", "--no-bos"});
  CHECK(std::count(result.out.begin(), result.out.end(), '\n') ==
        run_json({"tokenize", "-m", embedded_model(), "-p", "a\nb", "--no-bos"})
            .at("num_tokens")
            .get<int>());
}

TEST_CASE("inspect tells the embedded model's numbers", "[program]") {
  const Json json = run_json({"inspect", embedded_model(), "--tensors", "--memory", "1GiB"});
  CHECK(json.at("architecture") == "LlamaForCausalLM");
  CHECK(json.at("dtype") == "bfloat16");
  CHECK(json.at("num_parameters") == 18882432);
  CHECK(json.at("weight_bytes") == 2 * 18882432);
  CHECK(json.at("bytes_by_dtype").at("bfloat16") == 2 * 18882432);
  CHECK(json.at("vocab_size") == 8192);
  CHECK(json.at("hidden_size") == 384);
  CHECK(json.at("intermediate_size") == 1024);
  CHECK(json.at("num_layers") == 10);
  CHECK(json.at("num_q_heads") == 6);
  CHECK(json.at("num_kv_heads") == 2);
  CHECK(json.at("head_dim") == 64);
  CHECK(json.at("tied_embeddings") == true);
  CHECK(json.at("max_position_embeddings") == 131072);
  CHECK(json.at("attention").at("layer_topk") == Json({8, 8, 8, 8, 8, 8, 8, 8, 0, 0}));
  // Keys and values of 10 layers and 2 heads of 64 in bfloat16, and at most a centroid per page.
  const auto per_token = json.at("kv_bytes_per_token").get<std::int64_t>();
  CHECK(per_token >= 10 * 2 * 2 * 64 * 2);
  CHECK(per_token <= 10 * 2 * 2 * 64 * 2 * 65 / 64);
  REQUIRE(json.at("fits").size() == 1);
  const auto fits = json.at("fits")[0].at("num_tokens").get<std::int64_t>();
  CHECK(fits > 150000);
  CHECK(fits * per_token < (1 << 30));
  REQUIRE(json.at("tensors").size() == json.at("num_tensors").get<std::size_t>());
  const Json& first = json.at("tensors")[0];
  CHECK(first.at("name") == "model.embed_tokens.weight");
  CHECK(first.at("shape") == Json({8192, 384}));
  CHECK(first.at("dtype") == "bfloat16");

  const RunResult text = run_ok({"inspect", "--model", embedded_model()});
  for (const char* line : {"18.9M (18,882,432)", "MoBA in layers 0-7 (block 64, top-k 8)",
                           "6 query, 2 key/value, dimension 64", "8.0 GiB", "131,072 tokens"}) {
    CAPTURE(line, text.out);
    CHECK(text.out.find(line) != std::string::npos);
  }
}

TEST_CASE("inspect applies attention flags, and says what does not fit", "[program]") {
  const Json json =
      run_json({"inspect", embedded_model(), "--attention", "full", "--memory", "1MiB"});
  CHECK(json.at("attention").at("layers")[0] == "full");
  CHECK(json.at("fits")[0].at("num_tokens") == 0);
  CHECK(run_ok({"inspect", embedded_model(), "--memory", "1MiB"}).out.find("does not fit") !=
        std::string::npos);
}

TEST_CASE("bench latency times prompts and generation", "[program]") {
  const RunResult result = run_moba({"bench", "latency", "-m", embedded_model(), "-p", "8,70", "-d",
                                     "5", "-n", "3", "-r", "2", "--json"});
  if (result.err.find("debug build") != std::string::npos) {
    WARN("SKIPPED: this is a debug build, whose speed moba bench refuses to tell");
    return;
  }
  REQUIRE(result.exit_code == 0);
  const Json json = Json::parse(result.out);
  REQUIRE(json.at("cases").size() == 3);
  const Json& decode = json.at("cases")[2];
  CHECK(decode.at("case") == "decode");
  CHECK(decode.at("tokens") == 3);
  CHECK(json.at("cases")[1].at("prompt_tokens") == 70);
  for (const Json& item : json.at("cases")) {
    CHECK(item.at("seconds").size() == 2);
    CHECK(item.at("tokens_per_second").get<double>() > 0);
  }
  CHECK(run_ok({"bench", "latency", "--help"}).out.find("Usage: moba bench latency [OPTIONS]") !=
        std::string::npos);
  const Json batched = run_json({"bench", "latency", "-m", embedded_model(), "-p", "none", "-d",
                                 "9", "--batches", "1,3", "-n", "4", "-r", "1"});
  REQUIRE(batched.at("cases").size() == 2);
  CHECK(batched.at("cases")[1].at("batch") == 3);
  CHECK(batched.at("cases")[1].at("tokens_per_second").get<double>() > 0);
  for (const char* key : {"version", "commit", "device", "dtype", "seed", "max_num_seqs"}) {
    CHECK(batched.contains(key));
  }
  const RunResult wrong = run_moba({"bench", "latency", "--frobnicate"});
  CHECK(wrong.exit_code == 2);
  CHECK(wrong.err == "moba: error: unknown option --frobnicate (see moba bench latency --help)\n");
}

TEST_CASE("bench throughput runs requests side by side", "[program]") {
  const std::vector<std::string> load{
      "bench", "throughput", "-m", embedded_model(), "--num-requests", "5", "-p",
      "20",    "-n",         "6",  "--json"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = load;
    all.insert(all.end(), more.begin(), more.end());
    return run_moba(all);
  };
  const RunResult result = with({"--beside-prompt", "300"});
  if (result.err.find("debug build") != std::string::npos) {
    WARN("SKIPPED: this is a debug build, whose speed moba bench refuses to tell");
    return;
  }
  REQUIRE(result.exit_code == 0);
  const Json json = Json::parse(result.out);
  CHECK(json.at("num_requests") == 5);
  CHECK(json.at("concurrency") == 5);
  const double seconds = json.at("seconds").get<double>();
  CHECK(seconds > 0);
  CHECK(std::abs(json.at("output_tokens_per_second").get<double>() * seconds - 5 * 6) < 1e-6);
  CHECK(std::abs(json.at("total_tokens_per_second").get<double>() * seconds - 5 * 26) < 1e-6);
  const Json& gaps = json.at("inter_token_ms");
  CHECK(gaps.at("p50").get<double>() <= gaps.at("p99").get<double>());
  CHECK(json.at("beside").at("prompt_tokens") == 300);
  CHECK(json.at("beside").at("time_to_first_token_ms").get<double>() > 0);

  const RunResult paced = with({"--concurrency", "2", "--request-rate", "50"});
  REQUIRE(paced.exit_code == 0);
  CHECK(Json::parse(paced.out).at("concurrency") == 2);
  CHECK(with({"--request-rate", "0"}).err ==
        "moba: error: --request-rate: must be above 0, not 0\n");
  CHECK(with({"--num-requests", "0"}).exit_code == 2);
}

TEST_CASE("bench attention refuses what it cannot time", "[program]") {
  const auto refusal = [](const std::vector<std::string>& options) {
    std::vector<std::string> all{"bench", "attention"};
    all.insert(all.end(), options.begin(), options.end());
    const RunResult result = run_moba(all);
    CHECK(result.exit_code == 2);
    return result.err;
  };
  if (run_moba({"bench", "attention", "--device", "cpu"}).err.find("debug build") !=
      std::string::npos) {
    WARN("SKIPPED: this is a debug build, whose speed moba bench refuses to tell");
    return;
  }
  CHECK(refusal({"--device", "cpu"}) ==
        "moba: error: --device: expected cuda or cuda:N, not cpu\n");
  CHECK(refusal({"--pairs", "100/8"}) ==
        "moba: error: --pairs: blocks of 100 tokens are no multiple of --page 128\n");
  CHECK(refusal({"--pairs", "128"}).find("expected A/B,C/D") != std::string::npos);
  CHECK(refusal({"--heads", "0/8"}).find("expected A/B,C/D") != std::string::npos);
  CHECK(refusal({"--mode", "both"}) ==
        "moba: error: --mode: expected one of prefill, decode, not both\n");
}

TEST_CASE("help and version", "[program]") {
  const RunResult version = run_ok({"--version"});
  CHECK(version.out.rfind("moba ", 0) == 0);
  const RunResult help = run_ok({"--help"});
  CHECK(help.err.empty());
  for (const char* command : {"generate", "perplexity", "tokenize", "inspect", "bench"}) {
    CHECK(help.out.find(command) != std::string::npos);
    CHECK(run_ok({command, "--help"}).out.find("Usage: moba " + std::string(command)) !=
          std::string::npos);
  }
}

TEST_CASE("the manual names every flag that the help names", "[program]") {
  const std::string manual = read_file(repo_path("docs/cli.md"));
  const std::vector<std::vector<std::string>> commands{
      {"generate"},         {"perplexity"},          {"tokenize"},          {"inspect"},
      {"bench", "latency"}, {"bench", "throughput"}, {"bench", "attention"}};
  for (std::vector<std::string> command : commands) {
    command.emplace_back("--help");
    const std::string help = run_ok(command).out;
    for (std::size_t at = help.find("--"); at != std::string::npos; at = help.find("--", at + 2)) {
      std::size_t end = at + 2;
      while (end < help.size() &&
             (std::isalnum(static_cast<unsigned char>(help[end])) != 0 || help[end] == '-')) {
        ++end;
      }
      const std::string flag = help.substr(at, end - at);
      CAPTURE(command, flag);
      CHECK(manual.find(flag) != std::string::npos);
    }
  }
  for (const cli::Setting& setting : cli::all_settings()) {
    CAPTURE(std::string(setting.key));
    CHECK(manual.find("`" + std::string(setting.key) + "`") != std::string::npos);
  }
}

TEST_CASE("token ids need no tokenizer", "[program]") {
  const TempDir dir;
  const std::string ids = dir.write("ids.txt", "1 5 9 4 7");
  const std::string model = repo_path("tests/data/models/llama_mha");
  const Json output = run_json(
      {"generate", "-m", model, "--prompt-ids", ids, "-n", "4", "--greedy", "--ignore-eos"});
  CHECK(output.at("token_ids").size() == 4);
  CHECK(output.at("text") == "");
  CHECK(run_json({"perplexity", "-m", model, "--prompt-ids", ids}).at("num_tokens") == 5);
}

}  // namespace
}  // namespace moba::test
