// Bad input to moba batch: one clear message for each, nothing overwritten.
#include <sys/resource.h>

#include <filesystem>

#include "tests/catch.h"
#include "tests/tools/batch_util.h"

namespace moba::test {
namespace {

namespace fs = std::filesystem;

struct World {
  TempDir dir;
  std::string model = write_tiny_model(dir);
  std::string out = (dir.path() / "out.jsonl").string();
  std::string errors = (dir.path() / "out.errors.jsonl").string();
  std::string input =
      dir.write("in.jsonl", completion_line("a", "One", 2) + completion_line("b", "Two", 2));
};

void check_refused(const std::vector<std::string>& arguments, int exit_code,
                   const std::string& message, const RunOptions& options = {}) {
  const RunResult result = run_moba(arguments, options);
  CAPTURE(arguments, result.err, result.signal);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out.empty());
  REQUIRE(result.errors().size() == 1);
  CHECK(result.errors()[0].rfind("moba: error: ", 0) == 0);
  CHECK(result.errors()[0].find(message) != std::string::npos);
}

TEST_CASE("lines that are no requests fail alone", "[program][batch]") {
  const World world;
  const auto envelope = [](const std::string& rest) { return "{\"custom_id\": " + rest + "}\n"; };
  const std::string body = R"("body": {"prompt": "a", "max_tokens": 1})";
  const std::string head = R"("method": "POST", "url": "/v1/completions", )";
  struct Case {
    std::string line;
    std::string custom_id;  // as JSON
    int status;             // 0: no response
    std::string code;
    std::string message;
    std::string param;
  };
  const std::string deep = std::string(200, '[') + std::string(200, ']');
  const std::vector<Case> cases{
      {"{\"custom_id\": \"x1\",\n", "null", 0, "invalid_json", "not JSON: parse error at line 1",
       ""},
      {"[1, 2]\n", "null", 0, "invalid_json", "expected a JSON object, got an array", ""},
      {"{\"custom_id\": \"\xff\"}\n", "null", 0, "invalid_json", "not JSON", ""},
      {"{\"a\": " + deep + "}\n", "null", 0, "invalid_json", "nested 201 deep", ""},
      {"{" + head + body + "}\n", "null", 0, "invalid_custom_id", "custom_id is missing",
       "custom_id"},
      {envelope("5, " + head + body), "null", 0, "invalid_custom_id",
       "custom_id must be a string, not 5", "custom_id"},
      {envelope("\"x2\""), "\"x2\"", 0, "invalid_line", "method is missing", "method"},
      {envelope(R"("x3", "method": "GET", "url": "/v1/completions", )" + body), "\"x3\"", 0,
       "invalid_line", "method is \"GET\", not \"POST\"", "method"},
      {envelope(R"("x4", "method": "POST", )" + body), "\"x4\"", 0, "invalid_line",
       "url is missing", "url"},
      {envelope(R"("x5", "method": "POST", "url": "/v1/embeddings", )" + body), "\"x5\"", 0,
       "invalid_line", "url is \"/v1/embeddings\", not one of", "url"},
      {envelope("\"x6\", " + head + "\"body\": 7"), "\"x6\"", 0, "invalid_line",
       "body must be an object, not 7", "body"},
      {envelope("\"x7\", \"method\": \"POST\", \"url\": \"/v1/completions\""), "\"x7\"", 0,
       "invalid_line", "body is missing", "body"},
      {envelope("\"x8\", " + head + "\"body\": {}"), "\"x8\"", 400, "invalid_request",
       "prompt is missing", "prompt"},
      {envelope("\"x9\", " + head + R"("body": {"prompt": "a", "temperature": "hot"})"), "\"x9\"",
       400, "invalid_request", "temperature must be a number", "temperature"},
      {envelope("\"x10\", " + head + R"("body": {"prompt": "a", "temperature": -1})"), "\"x10\"",
       400, "invalid_request", "temperature is -1", "temperature"},
      {envelope("\"x11\", " + head + R"("body": {"prompt": "a", "n": 1000000})"), "\"x11\"", 400,
       "invalid_request", "n is 1000000", "n"},
      {envelope("\"x12\", " + head + R"("body": {"prompt": ""})"), "\"x12\"", 400,
       "invalid_request", "prompt is empty", "prompt"},
      {envelope("\"x13\", " + head + R"("body": {"prompt": [1, 9999]})"), "\"x13\"", 400,
       "invalid_request", "9999", ""},
      {envelope("\"x14\", " + head + R"("body": {"prompt": "a", "logit_bias": {"9999": 1}})"),
       "\"x14\"", 400, "invalid_request", "9999", "logit_bias"},
      {envelope("\"x15\", " + head + R"("body": {"prompt_file": "missing.txt"})"), "\"x15\"", 400,
       "invalid_request", "missing.txt: No such file", "prompt_file"},
      {envelope("\"x16\", " + head + R"("body": {"prompt_file": "/dev/zero"})"), "\"x16\"", 400,
       "invalid_request", "it is no regular file", "prompt_file"},
      {envelope("\"x17\", " + head + R"("body": {"prompt_file": "."})"), "\"x17\"", 400,
       "invalid_request", "it is no regular file", "prompt_file"},
      {envelope("\"x18\", " + head + R"("body": {"prompt_file": 3})"), "\"x18\"", 400,
       "invalid_request", "prompt_file must be a string, not 3", "prompt_file"},
      {envelope(R"("x19", "method": "POST", "url": "/v1/chat/completions",
                   "body": {"messages": [{"role": "user", "content": "a"}]})"),
       "null", 0, "invalid_json", "not JSON", ""},  // it stands on two lines
      {"", "null", 0, "invalid_json", "not JSON", ""},
      {completion_line("good", "again", 1), "\"good\"", 0, "duplicate_custom_id",
       "custom_id \"good\" stands on an earlier line too", "custom_id"},
      {envelope("\"x20\", " + head + R"("body": {"prompt": ")" + std::string(40000, 'a') + "\"}"),
       "\"x20\"", 400, "invalid_request", "max_model_len is 4096", "prompt"},
  };
  std::string lines = completion_line("good", "One", 2);
  for (const Case& c : cases) lines += c.line;
  lines += completion_line("better", "Two", 2);
  const std::string input = world.dir.write("in.jsonl", lines);

  const auto args = batch(world.model, input, world.out, {"--ordered"});
  check_refused(args, 1, std::to_string(cases.size()) + " requests failed: see " + world.errors);
  CHECK(by_custom_id(read_jsonl(world.out)).size() == 2);
  const auto errors = read_jsonl(world.errors);
  REQUIRE(errors.size() == cases.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Json& record = errors[i];
    CAPTURE(i, record.dump());
    CHECK(record.at("custom_id").dump() == cases[i].custom_id);
    const Json& error = record.at("error");
    CHECK(error.at("code") == cases[i].code);
    CHECK(error.at("message").get<std::string>().find(cases[i].message) != std::string::npos);
    if (!cases[i].param.empty()) CHECK(error.at("param") == cases[i].param);
    if (cases[i].status == 0) {
      CHECK(record.at("response").is_null());
    } else {
      CHECK(record.at("response").at("status_code") == cases[i].status);
      CHECK(record.at("response").at("body").at("error").at("message") == error.at("message"));
    }
  }
  CHECK(errors[0].at("error").at("line") == 2);

  // Started again it does none of them a second time.
  const std::string before = read_file(world.errors);
  check_refused(args, 1, std::to_string(cases.size()) + " requests failed: see " + world.errors);
  CHECK(read_file(world.errors) == before);
  CHECK(read_jsonl(world.out).size() == 2);
}

TEST_CASE("output files that hold something else stay as they are", "[program][batch]") {
  const World world;
  const auto refused = [&](const std::string& content, const std::string& message) {
    const std::string path = world.dir.write("out.jsonl", content);
    check_refused(batch(world.model, world.input, path), 1, message);
    CHECK(read_file(path) == content);
    CHECK_FALSE(fs::exists(world.errors));
  };
  refused("my notes\n", "is not of this run: line 1 is not JSON");
  refused("my notes", "is not of this run: its last line is not JSON");
  refused("{\"a\": 1}\n", "line 1 was not written by moba batch");
  refused(R"({"id": "batch_req_abc", "custom_id": "a"})"
          "\n",
          "line 1 was not written by moba batch");

  // Of other settings, and of another input with the same names.
  const std::string other = (world.dir.path() / "other.jsonl").string();
  REQUIRE(run_moba(batch(world.model, world.input, other, {"--top-k", "5"})).exit_code == 0);
  refused(read_file(other), "line 1 is of a run with another model or other settings");
  refused(read_file(other).substr(0, 40), "its last line is not JSON");
  fs::remove(other);
  const std::string changed = world.dir.write(
      "changed.jsonl", completion_line("a", "One", 2) + completion_line("b", "Three", 2));
  REQUIRE(run_moba(batch(world.model, changed, other)).exit_code == 0);
  refused(read_file(other), "custom_id \"b\", answers no request of the input");
  const std::string results = read_file(other);
  const std::string first = results.substr(0, results.find('\n') + 1);
  refused(first + "torn\n" + first, "line 2 is not JSON");
  if (first.find("\"a\"") != std::string::npos) refused(first + first, "stands there twice");

  // The error file is held to the same.
  fs::remove(world.out);
  const std::string notes = world.dir.write("out.errors.jsonl", "my notes\n");
  check_refused(batch(world.model, world.input, world.out), 1,
                "out.errors.jsonl is not of this run");
  CHECK(read_file(notes) == "my notes\n");
  CHECK_FALSE(fs::exists(world.out));
}

TEST_CASE("files of a batch that cannot be read or written", "[program][batch]") {
  const World world;
  const auto refused = [&](const std::string& input, const std::string& output,
                           const std::string& message) {
    check_refused(batch(world.model, input, output), 1, message);
  };
  refused("/nonexistent/in", world.out, "cannot read /nonexistent/in: No such file");
  refused(world.dir.path().string(), world.out, "it is a directory");
  refused(world.input, "/nonexistent/out", "cannot write /nonexistent/out: No such file");
  refused(world.input, world.dir.path().string(), "Is a directory");
  refused(world.input, world.input, "input and output are the same file");
  refused(world.input, "/dev/full", "cannot write /dev/full: No space left on device");
  CHECK_FALSE(fs::exists(world.out));
  check_refused(batch(world.model, world.input, world.out, {"-e", world.out}), 1,
                "output and error file are the same file");
  check_refused(batch(world.model, world.input, world.out, {"-e", world.input}), 1,
                "input and error file are the same file");
  check_refused(batch("/nonexistent/model", world.input, world.out), 1, "/nonexistent/model");
  CHECK_FALSE(fs::exists(world.out));
  CHECK(read_jsonl(world.input).size() == 2);
}

TEST_CASE("batch command lines that are not understood", "[program][batch]") {
  const World world;
  check_refused({"batch", "-m", world.model, "-o", world.out}, 2, "INPUT");
  check_refused({"batch", "-m", world.model, world.input}, 2, "no output: give -o FILE");
  check_refused({"batch", world.input, "-o", world.out}, 2, "no model");
  check_refused(batch(world.model, world.input, world.out, {"--shard", "3/2"}), 2,
                "--shard: expected I/N with I from 1 to N, got \"3/2\"");
  check_refused(batch(world.model, world.input, world.out, {"--look-ahead", "0"}), 2,
                "--look-ahead: expected at least 1, got 0");
  check_refused(batch(world.model, world.input, "-", {"--json"}), 2, "standard output");
  RunOptions pipe;
  pipe.input = read_file(world.input);
  check_refused(batch(world.model, world.input, world.out, {"--max-num-seqs", "-2"}), 1,
                "max_num_seqs is -2");
  CHECK_FALSE(fs::exists(world.out));
}

TEST_CASE("a disk that fills up ends the batch, and the next run goes on", "[program][batch]") {
  const World world;
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    lines += completion_line("r" + std::to_string(i), "Word " + std::to_string(i), 3);
  }
  const std::string input = world.dir.write("in.jsonl", lines);
  // A file may grow to 10,000 bytes only, as under ulimit -f.
  RunOptions options;
  options.max_file_bytes = 10'000;
  const RunResult result = run_moba(batch(world.model, input, world.out, {"-q"}), options);
  CAPTURE(result.err, result.signal);
  CHECK(result.exit_code == 1);
  REQUIRE(result.errors().size() == 1);
  CHECK(result.errors()[0].find("cannot write " + world.out + ": File too large") !=
        std::string::npos);
  const auto some = by_custom_id(read_jsonl(world.out));  // whole lines only
  CHECK(some.size() > 2);
  CHECK(some.size() < 60);
  CHECK(run_moba(batch(world.model, input, world.out, {"-q"})).exit_code == 0);
  CHECK(by_custom_id(read_jsonl(world.out)).size() == 60);
}

}  // namespace
}  // namespace moba::test
