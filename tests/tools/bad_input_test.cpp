// Bad input of every kind gets one line, an exit code, and nothing on standard output.
#include <filesystem>
#include <fstream>

#include "tests/catch.h"
#include "tests/tools/process.h"

namespace moba::test {
namespace {

namespace fs = std::filesystem;

// `message` must occur in the one line.
void check_refused(const std::vector<std::string>& arguments, int exit_code,
                   const std::string& message, const RunOptions& options = {}) {
  const RunResult result = run_moba(arguments, options);
  CAPTURE(arguments, result.err, result.signal);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out.empty());
  REQUIRE(result.errors().size() == 1);
  CHECK(result.errors()[0].rfind("moba: error: ", 0) == 0);
  CHECK(result.errors()[0].find(message) != std::string::npos);
  // The error is the last thing said.
  CHECK(result.err.find(result.errors()[0]) + result.errors()[0].size() + 1 == result.err.size());
}

void check_generate_refused(const std::vector<std::string>& more, int exit_code,
                            const std::string& message) {
  std::vector<std::string> arguments{"generate", "-m", embedded_model()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  check_refused(arguments, exit_code, message);
}

// A copy of the embedded model without its weights, or with the first `weight_bytes` of them.
class ModelCopy {
 public:
  explicit ModelCopy(std::size_t weight_bytes = 0) {
    for (const char* name :
         {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json"}) {
      dir_.write(name, read_file(embedded_model() + "/" + name));
    }
    if (weight_bytes > 0) {
      dir_.write("model.safetensors",
                 read_file(embedded_model() + "/model.safetensors").substr(0, weight_bytes));
    }
  }
  std::string path() const { return dir_.path().string(); }
  void write(const std::string& name, const std::string& bytes) const { dir_.write(name, bytes); }
  // Replaces a piece of config.json.
  void edit_config(const std::string& from, const std::string& to) const {
    std::string config = read_file(path() + "/config.json");
    REQUIRE(config.find(from) != std::string::npos);
    config.replace(config.find(from), from.size(), to);
    write("config.json", config);
  }

 private:
  TempDir dir_;
};

constexpr std::size_t kAllBytes = std::string::npos;

TEST_CASE("command lines that are not understood", "[program]") {
  check_refused({"frobnicate"}, 2, "unknown command frobnicate (commands: generate, ");
  check_refused({"--frobnicate"}, 2, "no command given");
  check_refused({"generate"}, 2, "--model");
  check_refused({"generate", "--frobnicate", "x"}, 2, "unknown option --frobnicate");
  check_refused({"generate", "--prompt"}, 2, "--prompt needs a value");
  check_refused({"tokenize", "-p", "a", "b"}, 2, "unexpected argument b");
  check_generate_refused({"-p", "a", "-f", "b"}, 2, "--prompt excludes --file");
  check_generate_refused({"-p", "a", "--greedy", "--temp", "1"}, 2, "excludes");
  const RunResult nothing = run_moba({});
  CHECK(nothing.exit_code == 2);
  CHECK(nothing.err.find("Usage: moba COMMAND") != std::string::npos);
}

TEST_CASE("flags with values that are none", "[program]") {
  check_generate_refused({"-p", "a", "--temperature", "nan"}, 2,
                         "--temperature: expected a finite number, got \"nan\"");
  check_generate_refused({"-p", "a", "--top-p", "much"}, 2, "--top-p: expected a finite number");
  check_generate_refused({"-p", "a", "-t", "1.5"}, 2, "--threads: expected an integer");
  check_generate_refused({"-p", "a", "--logit-bias", "foo"}, 2, "--logit-bias: expected ID:BIAS");
  check_generate_refused({"-p", "a", "--attention", "sparse"}, 2,
                         "--attention: expected one of auto, full, moba, got \"sparse\"");
  check_generate_refused({"-p", "a", "--dtype", "int4"}, 2, "--dtype: expected one of auto");
  check_generate_refused({"-p", "a", "--kv-cache-memory", "5X"}, 2, "--kv-cache-memory: ");
  check_generate_refused({"-p", "a", "--stop-token-ids", "2,x"}, 2, "--stop-token-ids: item 2");
  check_generate_refused({"-p", "a", "--seed", "-2"}, 2, "--seed: ");
  check_refused({"perplexity", "-m", embedded_model(), "-p", "a b c", "--window", "1"}, 2,
                "--window: expected at least 2, got 1");
  check_refused({"inspect", embedded_model(), "--memory", "lots"}, 2, "--memory: expected a size");
}

TEST_CASE("parameters the engine refuses", "[program]") {
  check_generate_refused({"-p", "a", "--temperature", "-0.5"}, 1, "temperature");
  check_generate_refused({"-p", "a", "--top-p", "0"}, 1, "top_p");
  check_generate_refused({"-p", "a", "--top-p", "1.5"}, 1, "top_p");
  check_generate_refused({"-p", "a", "--min-p", "-1"}, 1, "min_p");
  check_generate_refused({"-p", "a", "--top-k", "-2"}, 1, "top_k");
  check_generate_refused({"-p", "a", "--repetition-penalty", "0"}, 1, "repetition_penalty");
  check_generate_refused({"-p", "a", "--presence-penalty", "3"}, 1, "presence_penalty");
  check_generate_refused({"-p", "a", "--frequency-penalty", "-3"}, 1, "frequency_penalty");
  check_generate_refused({"-p", "a", "--max-tokens", "-5"}, 1, "max_tokens");
  check_generate_refused({"-p", "a", "--logprobs", "101"}, 1, "logprobs");
  check_generate_refused({"-p", "a", "--logit-bias", "8192:1"}, 1, "8192");
  check_generate_refused({"-p", "a", "--stop-token-ids", "9999"}, 1, "9999");
}

TEST_CASE("engine settings that cannot be", "[program]") {
  check_generate_refused({"-p", "a", "--moba-topk", "-1"}, 1, "topk");
  check_generate_refused({"-p", "a", "--moba-block-size", "100", "--block-size", "64"}, 1, "100");
  check_generate_refused({"-p", "a", "--full-attention-layers", "last:11"}, 1, "11");
  check_generate_refused({"-p", "a", "--attention", "moba", "--full-attention-layers", "10"}, 1,
                         "10");
  check_generate_refused({"-p", "a", "--full-attention-layers", "some"}, 1, "some");
  check_generate_refused({"-p", "a", "--threads", "-1"}, 1, "threads");
  check_generate_refused({"-p", "a", "-b", "-2"}, 1, "max_num_batched_tokens");
  check_generate_refused({"-p", "a", "--max-model-len", "-1"}, 1, "max_model_len");
  check_generate_refused({"-p", "a", "--kv-cache-memory", "1"}, 1, "KV cache");
  check_generate_refused({"-p", "a", "--kv-cache-memory", "900T"}, 1, "memory");
}

TEST_CASE("prompts that are empty, too long or unreadable", "[program]") {
  const TempDir dir;
  check_generate_refused({"-p", ""}, 1, "the prompt is empty");
  check_generate_refused({}, 1, "the prompt is empty: standard input holds nothing");
  check_generate_refused({"-f", dir.write("empty", "")}, 1, "the prompt is empty: ");
  check_generate_refused({"-f", dir.write("newline", "\n")}, 1, "the prompt is empty: ");
  check_generate_refused({"--prompt-ids", dir.write("ids", " \n")}, 1, "the prompt is empty: ");
  check_generate_refused({"-p", "one two three four five six", "--max-model-len", "4"}, 1, "4");
  check_generate_refused({"-f", "/nonexistent/file"}, 1, "cannot read /nonexistent/file: No such");
  check_generate_refused({"-f", dir.path().string()}, 1, "it is a directory");
}

TEST_CASE("token ids that are none", "[program]") {
  const TempDir dir;
  check_generate_refused({"--prompt-ids", dir.write("a", "1 2 x")}, 1,
                         "a: item 3: expected a token id, got \"x\"");
  check_generate_refused({"--prompt-ids", dir.write("b", "[1, 2.5]")}, 1, "b: item 2: ");
  check_generate_refused({"--prompt-ids", dir.write("c", "[1, 2")}, 1, "c: expected a JSON array");
  check_generate_refused({"--prompt-ids", dir.write("d", "1 -1")}, 1, "d: item 2: ");
  check_generate_refused({"--prompt-ids", dir.write("e", "1 8192")}, 1, "8192");
  check_refused({"perplexity", "-m", embedded_model(), "--prompt-ids", dir.write("f", "1 8192 5")},
                1, "8192");
  RunOptions input;
  input.input = "5 99999";
  check_refused({"tokenize", "-m", embedded_model(), "--decode"}, 1, "99999", input);
}

TEST_CASE("configuration files that are wrong", "[program]") {
  const TempDir dir;
  const auto config = [&](const std::string& json) { return dir.write("c.json", json); };
  check_generate_refused({"-p", "a", "--config", config(R"({"temprature": 1})")}, 1,
                         "c.json: unknown key \"temprature\", did you mean \"temperature\"?");
  check_generate_refused({"-p", "a", "--config", config(R"({"top_k": "x"})")}, 1,
                         "c.json: top_k: expected an integer, got \"x\"");
  check_generate_refused({"-p", "a", "--config", config("{")}, 1, "c.json: not JSON");
  check_generate_refused({"-p", "a", "--config", "/nonexistent.json"}, 1,
                         "cannot read /nonexistent.json");
}

TEST_CASE("checkpoints that are missing or broken", "[program]") {
  for (const std::string command : {"generate", "inspect"}) {
    const auto refused = [&](const ModelCopy& model, const std::string& message) {
      std::vector<std::string> arguments{command, "-m", model.path()};
      if (command == "generate") arguments.insert(arguments.end(), {"-p", "a"});
      check_refused(arguments, 1, message);
    };
    CAPTURE(command);
    std::vector<std::string> missing{command, "-m", "/nonexistent/model"};
    if (command == "generate") missing.insert(missing.end(), {"-p", "a"});
    check_refused(missing, 1, "/nonexistent/model");

    refused(ModelCopy(), "model.safetensors");         // no weights
    refused(ModelCopy(7), "model.safetensors");        // not even the header's length
    refused(ModelCopy(100), "model.safetensors");      // within the header
    refused(ModelCopy(1000000), "model.safetensors");  // within the tensors

    const ModelCopy no_config(kAllBytes);
    fs::remove(no_config.path() + "/config.json");
    refused(no_config, "config.json");
    const ModelCopy bad_config(kAllBytes);
    bad_config.write("config.json", "{\"architectures\": ");
    refused(bad_config, "config.json");
    const ModelCopy unknown(kAllBytes);
    unknown.edit_config("LlamaForCausalLM", "MambaForCausalLM");
    refused(unknown, "MambaForCausalLM");
    refused(unknown, "LlamaForCausalLM");  // the known ones are listed
    const ModelCopy heads(kAllBytes);
    heads.edit_config("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
    refused(heads, "num_key_value_heads");
    const ModelCopy vocabulary(kAllBytes);
    vocabulary.edit_config("\"vocab_size\": 8192", "\"vocab_size\": 9000");
    // inspect shows what is there, without holding the config against it.
    if (command == "generate") refused(vocabulary, "9000");
    const ModelCopy huge(kAllBytes);
    huge.write("model.safetensors", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
    refused(huge, "model.safetensors");
  }
}

TEST_CASE("a checkpoint without a tokenizer says so", "[program]") {
  const ModelCopy model(kAllBytes);
  fs::remove(model.path() + "/tokenizer.model");
  check_refused({"generate", "-m", model.path(), "-p", "a"}, 1, "tokenizer");
  check_refused({"tokenize", "-m", model.path(), "-p", "a"}, 1, "tokenizer");
}

}  // namespace
}  // namespace moba::test
