// kill -9 at random moments of a batch: nothing is lost, nothing comes twice.
#include <signal.h>

#include <filesystem>
#include <random>
#include <set>
#include <sstream>

#include "tests/catch.h"
#include "tests/tools/batch_util.h"

namespace moba::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kRequests = 600;
constexpr int kKills = 100;

std::string lines() {
  std::string text;
  for (int i = 0; i < kRequests; ++i) {
    const std::string id = "r" + std::to_string(i);
    if (i % 17 == 5) {
      text += "{\"custom_id\": \"" + id + "\", \"method\": \"GET\"}\n";
    } else if (i % 17 == 7) {
      text += "not JSON, line " + std::to_string(i) + "\n";
    } else {
      text += completion_line(id, "Something about " + std::to_string(i * i), 2 + i % 20);
    }
  }
  return text;
}

// Every whole line is JSON; only the last may be torn. Returns the names of the lines, each once.
std::set<std::string> check_whole_lines(const std::string& path) {
  std::set<std::string> names;
  if (!fs::exists(path)) return names;
  const std::string text = read_file(path);
  std::istringstream stream(text.substr(0, text.rfind('\n') + 1));
  for (std::string line; std::getline(stream, line);) {
    CAPTURE(path, line);
    const Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    REQUIRE_FALSE(record.is_discarded());
    const Json& id = record.at("custom_id");
    const std::string name =
        id.is_null() ? "line " + record.at("error").at("line").dump() : id.get<std::string>();
    CHECK(names.insert(name).second);
  }
  return names;
}

TEST_CASE("a hundred kills lose nothing and double nothing", "[program][batch][kill]") {
  const TempDir dir;
  const std::string model = write_tiny_model(dir);
  const std::string input = dir.write("in.jsonl", lines());
  const auto path = [&](const std::string& name) { return (dir.path() / name).string(); };

  const Clock::time_point start = Clock::now();
  const RunResult whole = run_moba(batch(model, input, path("whole.jsonl"), {"-q"}));
  CHECK(whole.exit_code == 1);
  const auto duration = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  const auto expected = by_custom_id(read_jsonl(path("whole.jsonl")));
  const std::set<std::string> expected_errors = check_whole_lines(path("whole.errors.jsonl"));
  REQUIRE(expected.size() + expected_errors.size() == kRequests);

  std::mt19937 random(20240607);
  int kills = 0;
  int kills_at_work = 0;  // after which there were more results than before
  int batches = 0;
  while (kills < kKills) {
    const std::string name = "out" + std::to_string(batches++);
    const std::string out = path(name + ".jsonl");
    const std::string errors = path(name + ".errors.jsonl");
    const std::vector<std::string> ordered = batches % 2 == 0
                                                 ? std::vector<std::string>{"-q", "--ordered"}
                                                 : std::vector<std::string>{"-q"};
    std::size_t before = 0;
    for (bool finished = false; !finished;) {
      RunOptions options;
      if (kills < kKills) {
        options.signal = SIGKILL;
        std::uniform_int_distribution<long> delay(0, duration.count() / 3);
        options.signal_delay = std::chrono::milliseconds(delay(random));
      }
      const RunResult result = run_moba(batch(model, input, out, ordered), options);
      CAPTURE(result.err);
      if (result.signal == SIGKILL) {
        ++kills;
      } else {
        REQUIRE(result.exit_code == 1);
        finished = true;
      }
      // A line that was there stays.
      const std::size_t now = check_whole_lines(out).size() + check_whole_lines(errors).size();
      CHECK(now >= before);
      if (result.signal == SIGKILL && now > before) ++kills_at_work;
      before = now;
    }
    const auto records = by_custom_id(read_jsonl(out));
    REQUIRE(records.size() == expected.size());
    for (const auto& [id, record] : records) {
      CHECK(output_ids(record) == output_ids(expected.at(id)));
    }
    CHECK(check_whole_lines(errors) == expected_errors);
  }
  // Else this would not have tested anything.
  CHECK(kills_at_work > kKills / 4);
}

}  // namespace
}  // namespace moba::test
