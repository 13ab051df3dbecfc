// moba batch, run as users run it.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "tests/catch.h"
#include "tests/tools/batch_util.h"

namespace moba::test {
namespace {

namespace fs = std::filesystem;

RunResult run_ok(const std::vector<std::string>& arguments, const RunOptions& options = {}) {
  RunResult result = run_moba(arguments, options);
  CAPTURE(arguments, result.err);
  REQUIRE(result.exit_code == 0);
  return result;
}

std::string book_text(std::size_t begin, std::size_t bytes) {
  return read_file(repo_path("configs/text/pride-and-prejudice-16k.txt")).substr(begin, bytes);
}

struct World {
  TempDir dir;
  std::string model = write_tiny_model(dir);
  std::string out = (dir.path() / "out.jsonl").string();
  std::string errors = (dir.path() / "out.errors.jsonl").string();

  std::string input(const std::string& lines) const { return dir.write("in.jsonl", lines); }
};

std::string id_of(int i) { return "request-" + std::to_string(i); }

std::string ordinary_lines(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    lines += completion_line(id_of(i), "Question " + std::to_string(i * 7919 % 1000), 1 + i % 7);
  }
  return lines;
}

TEST_CASE("a batch answers every request in OpenAI's format", "[program][batch]") {
  const World world;
  const std::string input =
      world.input(completion_line("a", "Once upon a time", 5) + "\n" +
                  completion_line("b", "It was", 3, {{"n", 2}, {"logprobs", 1}, {"seed", 5}}));
  const RunResult result = run_ok(batch(world.model, input, world.out));
  CHECK(result.out.empty());
  CHECK(result.err.find("batch: 2 requests in ") != std::string::npos);
  CHECK(result.err.find("results in " + world.out) != std::string::npos);
  CHECK_FALSE(fs::exists(world.errors));
  const auto records = by_custom_id(read_jsonl(world.out));
  REQUIRE(records.size() == 2);
  const Json& a = records.at("a");
  CHECK(a.at("id").get<std::string>().rfind("batch_req_", 0) == 0);
  CHECK(a.at("error").is_null());
  CHECK(a.at("response").at("status_code") == 200);
  CHECK(a.at("response").at("request_id").get<std::string>().rfind("req_", 0) == 0);
  const Json& body = a.at("response").at("body");
  CHECK(body.at("object") == "text_completion");
  CHECK(body.at("model") == "tiny");
  CHECK(body.at("choices").at(0).at("finish_reason") == "length");
  CHECK(body.at("usage").at("completion_tokens") == 5);
  CHECK(output_ids(a).size() == 5);
  const Json& b = records.at("b").at("response").at("body");
  CHECK(b.at("choices").size() == 2);
  CHECK(b.at("choices").at(1).at("logprobs").at("tokens").size() == 3);
  CHECK(b.at("usage").at("completion_tokens") == 6);
}

TEST_CASE("requests of a batch get the tokens they get alone", "[program][batch]") {
  const World world;
  // Lengths, attention, sampling and common beginnings of all sorts, beside each other.
  std::vector<std::string> lines;
  for (int i = 0; i < 24; ++i) {
    Json more = Json::object();
    if (i % 4 == 1) more["attention"] = "full";
    if (i % 4 == 2) more["moba_topk"] = 2;
    if (i % 5 == 3) more.update({{"temperature", 0.8}, {"seed", i}});
    if (i % 6 == 5) more["repetition_penalty"] = 1.2;
    const std::string text = i % 3 == 0 ? book_text(0, 3000) + std::to_string(i)
                                        : book_text(static_cast<std::size_t>(i) * 500, 40 * i + 5);
    lines.push_back(completion_line(id_of(i), text, 3 + i % 9, more));
  }
  std::string all;
  for (const std::string& line : lines) all += line;
  const std::vector<std::string> exact{"--dtype", "float32", "-q"};
  run_ok(batch(world.model, world.input(all), world.out, exact));
  const auto together = by_custom_id(read_jsonl(world.out));
  REQUIRE(together.size() == lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CAPTURE(i);
    const std::string out = (world.dir.path() / ("alone" + std::to_string(i))).string();
    run_ok(batch(world.model, world.dir.write("one.jsonl", lines[i]), out, exact));
    CHECK(output_ids(read_jsonl(out).at(0)) == output_ids(together.at(id_of(static_cast<int>(i)))));
  }
}

TEST_CASE("documents on disk are prompts, and are read once by the model", "[program][batch]") {
  const World world;
  const std::string document = book_text(0, 6000);
  world.dir.write("docs/one.txt", document + "\n");
  std::string lines;
  for (int i = 0; i < 12; ++i) {
    lines += completion_line(id_of(i), " Question " + std::to_string(i), 2,
                             {{"prompt_file", "docs/one.txt"}});
    // Others between them do not keep them apart.
    lines += completion_line("other" + std::to_string(i), "Something else " + std::to_string(i), 2);
  }
  lines += completion_line("inline", document + " Question 3", 2);
  const RunResult result =
      run_ok(batch(world.model, world.input(lines), world.out, {"--json", "--dtype", "float32"}));
  const Json summary = Json::parse(result.out);
  CHECK(summary.at("num_answered") == 25);
  const auto records = by_custom_id(read_jsonl(world.out));
  CHECK(output_ids(records.at("inline")) == output_ids(records.at(id_of(3))));
  const auto usage = [&](const std::string& id) {
    return records.at(id).at("response").at("body").at("usage");
  };
  const auto length = usage("inline").at("prompt_tokens").get<std::int64_t>();
  REQUIRE(length > 1000);
  int cold = 0;
  for (int i = 0; i < 12; ++i) {
    const auto cached =
        usage(id_of(i)).at("prompt_tokens_details").at("cached_tokens").get<std::int64_t>();
    if (cached == 0) {
      ++cold;
    } else {
      CHECK(cached > length - 200);
    }
  }
  CHECK(cold == 1);
}

TEST_CASE("--ordered keeps the order of the input", "[program][batch]") {
  const World world;
  std::string lines;
  std::vector<std::string> expected;
  for (int i = 0; i < 60; ++i) {
    // The early ones take longest.
    if (i % 10 == 9) {
      lines += "{\"custom_id\": \"" + id_of(i) + "\"}\n";
    } else {
      lines += completion_line(id_of(i), "Word " + std::to_string(i), 1 + (60 - i) / 3);
      expected.push_back(id_of(i));
    }
  }
  const auto ids_of = [](const std::string& path) {
    std::vector<std::string> ids;
    for (const Json& record : read_jsonl(path)) {
      ids.push_back(record.at("custom_id").get<std::string>());
    }
    return ids;
  };
  const std::string input = world.input(lines);
  for (const char* look_ahead : {"1024", "3"}) {
    CAPTURE(look_ahead);
    fs::remove(world.out);
    fs::remove(world.errors);
    const RunResult result =
        run_moba(batch(world.model, input, world.out, {"--ordered", "--look-ahead", look_ahead}));
    CHECK(result.exit_code == 1);  // some lines are no requests
    CHECK(ids_of(world.out) == expected);
    CHECK(ids_of(world.errors) == std::vector<std::string>{id_of(9), id_of(19), id_of(29),
                                                           id_of(39), id_of(49), id_of(59)});
  }
}

TEST_CASE("parts of a file are answered apart and make up the whole", "[program][batch]") {
  const World world;
  const std::string input = world.input(ordinary_lines(50) + completion_line(id_of(3), "again", 1));
  std::multiset<std::string> answered;
  std::multiset<std::string> failed;
  for (int i = 1; i <= 3; ++i) {
    const std::string name = "part" + std::to_string(i);
    const std::string out = (world.dir.path() / (name + ".jsonl")).string();
    const std::string shard = std::to_string(i) + "/3";
    const RunResult result = run_moba(batch(world.model, input, out, {"--shard", shard, "-q"}));
    const auto records = read_jsonl(out);
    CHECK(records.size() > 10);
    for (const Json& record : records) answered.insert(record.at("custom_id").get<std::string>());
    const std::string errors = (world.dir.path() / (name + ".errors.jsonl")).string();
    CHECK((result.exit_code == 0) == !fs::exists(errors));
    for (const Json& record : fs::exists(errors) ? read_jsonl(errors) : std::vector<Json>{}) {
      failed.insert(record.at("custom_id").get<std::string>());
    }
  }
  CHECK(answered.size() == 50);
  CHECK(std::set<std::string>(answered.begin(), answered.end()).size() == 50);
  CHECK(failed == std::multiset<std::string>{id_of(3)});
}

TEST_CASE("an interrupted batch goes on where it ended", "[program][batch]") {
  const World world;
  const std::string input = world.input(ordinary_lines(40));
  const std::string whole = (world.dir.path() / "whole.jsonl").string();
  run_ok(batch(world.model, input, whole, {"-q"}));
  const auto expected = by_custom_id(read_jsonl(whole));

  // Torn at every place of its last line, and between lines.
  const std::string text = read_file(whole);
  const std::size_t half = text.find('\n', text.size() / 2) + 1;
  const std::size_t line_end = text.find('\n', half);
  for (std::size_t cut : {std::size_t{0}, std::size_t{1}, half, half + 1, half + 12, half + 30,
                          half + 60, line_end - 1, line_end}) {
    CAPTURE(cut);
    world.dir.write("out.jsonl", text.substr(0, cut));
    const RunResult result = run_ok(batch(world.model, input, world.out));
    const auto records = by_custom_id(read_jsonl(world.out));
    CHECK(records.size() == 40);
    for (const auto& [id, record] : records)
      CHECK(output_ids(record) == output_ids(expected.at(id)));
    const std::string kept = text.substr(0, text.rfind('\n', cut == 0 ? 0 : cut - 1) + 1);
    if (cut > half) CHECK(read_file(world.out).rfind(kept, 0) == 0);
  }
  // Nothing left to do: nothing changes.
  const std::string done = read_file(world.out);
  const RunResult again = run_ok(batch(world.model, input, world.out));
  CHECK(again.err.find("batch: 0 requests") != std::string::npos);
  CHECK(again.err.find("40 were there before") != std::string::npos);
  CHECK(read_file(world.out) == done);
  // More lines at the end of the input are new requests.
  world.input(ordinary_lines(43));
  run_ok(batch(world.model, input, world.out, {"-q"}));
  CHECK(by_custom_id(read_jsonl(world.out)).size() == 43);
  CHECK(read_file(world.out).rfind(done, 0) == 0);
}

TEST_CASE("Ctrl-C ends a batch with what is done written", "[program][batch]") {
  const World world;
  std::string lines;
  for (int i = 0; i < 300; ++i)
    lines += completion_line(id_of(i), "Word " + std::to_string(i), 300);
  const std::string input = world.input(lines);
  RunOptions options;
  options.signal = SIGINT;
  options.signal_after = "engine: layers";
  options.signal_delay = std::chrono::milliseconds(700);
  const RunResult result = run_moba(batch(world.model, input, world.out), options);
  CAPTURE(result.err);
  CHECK(result.exit_code == 130);
  CHECK(result.errors().empty());
  CHECK(result.err.find("the same command goes on") != std::string::npos);
  const auto records = by_custom_id(read_jsonl(world.out));
  CHECK(records.size() < 300);
  for (const auto& [id, record] : records) CHECK(output_ids(record).size() == 300);
}

TEST_CASE("results can go to standard output, requests come from standard input",
          "[program][batch]") {
  const World world;
  RunOptions options;
  options.input = ordinary_lines(5) + "no request\n";
  const RunResult result = run_moba(batch(world.model, "-", "-", {"--ordered"}), options);
  CHECK(result.exit_code == 1);
  const std::string path = world.dir.write("stdout", result.out);
  const auto records = read_jsonl(path);
  REQUIRE(records.size() == 6);
  CHECK(records[0].at("custom_id") == id_of(0));
  CHECK(records[5].at("error").at("code") == "invalid_json");
}

TEST_CASE("chat completions go through the checkpoint's template", "[program][batch]") {
  const World world;
  const auto chat = [](const std::string& id, const Json& body) {
    Json full{{"max_tokens", 2}, {"temperature", 0}, {"return_token_ids", true}};
    full.update(body);
    return Json{{"custom_id", id},
                {"method", "POST"},
                {"url", "/v1/chat/completions"},
                {"body", full}}
               .dump() +
           "\n";
  };
  const Json messages{{{"role", "user"}, {"content", "</s>Hello"}}};
  world.dir.write("doc.txt", "A document.\n");
  const std::string input =
      world.input(chat("a", {{"messages", messages}}) +
                  chat("b", {{"messages", messages}, {"prompt_file", "doc.txt"}}));
  // Without a template each fails alone.
  const RunResult none = run_moba(batch(world.model, input, world.out, {"-q"}));
  CHECK(none.exit_code == 1);
  for (const Json& record : read_jsonl(world.errors)) {
    CHECK(record.at("error").at("message") == "the checkpoint has no chat template");
  }
  const std::string source =
      "{% for m in messages %}{{ bos_token + m.role + ': ' + m.content + eos_token }}{% endfor %}";
  const std::string file = world.dir.write("template.jinja", source);
  const std::string by_file = (world.dir.path() / "by_file.jsonl").string();
  run_ok(batch(world.model, input, by_file, {"-q", "--chat-template", file}));
  world.dir.write("tiny/chat_template.jinja", source);
  const std::string by_model = (world.dir.path() / "by_model.jsonl").string();
  run_ok(batch(world.model, input, by_model, {"-q"}));
  const auto records = by_custom_id(read_jsonl(by_file));
  for (const auto& [id, record] : by_custom_id(read_jsonl(by_model))) {
    const Json& body = record.at("response").at("body");
    CHECK(body.at("object") == "chat.completion");
    CHECK(body.at("choices").at(0).at("message").at("role") == "assistant");
    CHECK(output_ids(record) == output_ids(records.at(id)));
    // One end of text, the template's: that of the message is text.
    const Json& ids = body.at("prompt_token_ids");
    CHECK(std::count(ids.begin(), ids.end(), Json(2)) == 1);
    CHECK(ids.front() == 1);
  }
  const auto length = [&](const std::string& id) {
    return records.at(id).at("response").at("body").at("usage").at("prompt_tokens").get<int>();
  };
  CHECK(length("b") > length("a") + 2);
}

TEST_CASE("unknown fields are named once and ignored", "[program][batch]") {
  const World world;
  const std::string input = world.input(completion_line("a", "One", 1, {{"frobnicate", 1}}) +
                                        completion_line("b", "Two", 1, {{"frobnicate", 2}}) +
                                        completion_line("c", "Six", 1, {{"stream", true}}));
  const RunResult result = run_ok(batch(world.model, input, world.out));
  const std::size_t at = result.err.find("the field \"frobnicate\" is ignored");
  REQUIRE(at != std::string::npos);
  CHECK(result.err.find("frobnicate", at + 20) == std::string::npos);
  CHECK(result.err.find("the field \"stream\" is ignored") != std::string::npos);
  CHECK(read_jsonl(world.out).size() == 3);
}

TEST_CASE("flags are the defaults of bodies that say nothing", "[program][batch]") {
  const World world;
  const auto line = [](const std::string& id, const Json& body) {
    return Json{{"custom_id", id}, {"method", "POST"}, {"url", "/v1/completions"}, {"body", body}}
               .dump() +
           "\n";
  };
  const std::string input =
      world.input(line("a", {{"prompt", "One"}, {"ignore_eos", true}}) +
                  line("b", {{"prompt", "One"}, {"ignore_eos", true}, {"max_tokens", 2}}));
  const auto tokens = [&](const std::vector<std::string>& more, const std::string& name) {
    const std::string out = (world.dir.path() / name).string();
    run_ok(batch(world.model, input, out, more));
    std::map<std::string, int> counts;
    for (const auto& [id, record] : by_custom_id(read_jsonl(out))) {
      counts[id] = record.at("response").at("body").at("usage").at("completion_tokens");
    }
    return counts;
  };
  CHECK(tokens({}, "x.jsonl") == std::map<std::string, int>{{"a", 16}, {"b", 2}});
  CHECK(tokens({"-n", "5"}, "y.jsonl") == std::map<std::string, int>{{"a", 5}, {"b", 2}});
}

}  // namespace
}  // namespace moba::test
