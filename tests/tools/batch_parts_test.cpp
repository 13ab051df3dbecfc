// The parts of moba batch, without a model.
#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "server/openai/json_fields.h"
#include "tests/catch.h"
#include "tests/tools/process.h"
#include "tools/batch/batch_item.h"
#include "tools/batch/batch_progress.h"
#include "tools/batch/done_index.h"
#include "tools/batch/line_counter.h"
#include "tools/batch/line_reader.h"
#include "tools/batch/look_ahead.h"
#include "tools/batch/mailbox.h"
#include "tools/batch/record_scan.h"
#include "tools/batch/records.h"
#include "tools/batch/result_file.h"
#include "tools/batch/run_id.h"
#include "tools/batch/shard.h"
#include "tools/moba/errors.h"

namespace moba::test {
namespace {

using namespace moba::batch;

const std::atomic<bool> kNever{false};

std::vector<std::string> lines_of(const std::string& path, std::size_t max = kMaxLineBytes) {
  const InputFile file(path);
  LineReader reader(file, kNever, max);
  std::vector<std::string> lines;
  Line line;
  while (reader.next(line)) {
    lines.push_back(line.text + (line.too_long ? "+" : "") + (line.complete ? "" : "|"));
  }
  return lines;
}

TEST_CASE("hashes are those of FNV-1a with its halves mixed, for good", "[batch]") {
  // They stand in files: a change would make them files of another run.
  CHECK(to_hex(0) == "0000000000000000");
  CHECK(to_hex(0xDEADBEEF01234567ULL) == "deadbeef01234567");
  CHECK(hash_bytes("a") == hash_bytes("a"));
  std::set<std::uint64_t> lows;
  std::set<std::uint64_t> highs;
  for (int i = 0; i < 100000; ++i) {
    const Hash128 hash = hash_bytes("request-" + std::to_string(i));
    lows.insert(hash.low >> 32);
    highs.insert(hash.high >> 32);
  }
  // 32 bits of 100,000 hashes: 1.2 pairs are equal on average.
  CHECK(lows.size() > 99980);
  CHECK(highs.size() > 99980);
}

TEST_CASE("the index of what is done", "[batch]") {
  DoneIndex done;
  constexpr int kCount = 50000;
  for (int i = 0; i < kCount; i += 2) {
    CHECK(done.add_done(key_of_id("id" + std::to_string(i)), static_cast<std::uint64_t>(i)));
  }
  CHECK_FALSE(done.add_done(key_of_id("id0"), 5));
  CHECK(done.num_done() == kCount / 2);
  CHECK(done.num_unconfirmed() == kCount / 2);
  for (int i = 0; i < kCount; ++i) {
    const Hash128 key = key_of_id("id" + std::to_string(i));
    const bool expected = i % 2 == 0;
    if (done.is_done(key) != expected) FAIL("is_done of " << i);
    done.confirm(key, static_cast<std::uint64_t>(i) + 1);  // another line
    if (done.is_confirmed(key)) FAIL("confirmed " << i);
    done.confirm(key, static_cast<std::uint64_t>(i));
    if (done.is_confirmed(key) != expected) FAIL("not confirmed " << i);
    if (!done.mark_read(key)) FAIL("read before " << i);
    if (done.mark_read(key)) FAIL("not read " << i);
  }
  CHECK(done.num_unconfirmed() == 0);
  CHECK_FALSE(done.is_done(key_of_line(0)));
}

TEST_CASE("lines", "[batch]") {
  const TempDir dir;
  using Lines = std::vector<std::string>;
  CHECK(lines_of(dir.write("a", "")) == Lines{});
  CHECK(lines_of(dir.write("b", "one\ntwo\r\n\nthree")) == Lines{"one", "two", "", "three|"});
  CHECK(lines_of(dir.write("c", "\xEF\xBB\xBF{}\n")) == Lines{"{}"});
  CHECK(lines_of(dir.write("d", "12345\n123456\n1\n"), 5) == Lines{"12345", "12345+", "1"});
  // Longer than the buffer, and across its end.
  const std::string big(700'000, 'x');
  CHECK(lines_of(dir.write("e", "a\n" + big + "\nb\n")) == Lines{"a", big, "b"});
  CHECK_THROWS_AS(InputFile("/nonexistent/file"), cli::CommandError);
  CHECK_THROWS_AS(InputFile(dir.path().string()), cli::CommandError);
}

TEST_CASE("parts of a file share its lines", "[batch]") {
  const TempDir dir;
  std::string text;
  for (int i = 0; i < 100; ++i) text += std::string(static_cast<std::size_t>(i % 13), 'x') + "y\n";
  text += "last";
  const InputFile file(dir.write("a", text));
  for (const int count : {1, 2, 3, 7, 64, 1000}) {
    CAPTURE(count);
    std::int64_t lines = 0;
    std::int64_t end = 0;
    for (int i = 1; i <= count; ++i) {
      const Shard shard{i, count};
      CHECK(shard.begin(file.size()) == end);
      end = shard.end(file.size());
      LineReader reader(file, kNever);
      Line line;
      std::int64_t mine = 0;
      while (reader.next(line)) {
        if (line.offset >= shard.begin(file.size()) && line.offset < end) ++mine;
      }
      LineCounter counter(file, shard);
      while (counter.total() < 0) std::this_thread::yield();
      CHECK(counter.total() == mine);
      lines += mine;
    }
    CHECK(lines == 101);
  }
  CHECK(parse_shard("2/8").index == 2);
  CHECK(parse_shard("8/8").count == 8);
  for (const char* bad : {"", "1", "0/4", "5/4", "1/0", "-1/4", "a/4", "1/x", "1/9999999"}) {
    CHECK_THROWS_AS(parse_shard(bad), std::invalid_argument);
  }
}

TEST_CASE("blank lines are not counted", "[batch]") {
  const TempDir dir;
  const InputFile file(dir.write("a", "\n{}\n  \r\n\t{}\n\n{}"));
  LineCounter counter(file, Shard{});
  while (counter.total() < 0) std::this_thread::yield();
  CHECK(counter.total() == 3);
}

TEST_CASE("what identifies a line", "[batch]") {
  const auto head = scan_record(
      R"({"id": "a", "x": {"id": "no", "custom_id": "no"}, "custom_id": "b", "y": ["custom_id"],
          "error": {"code": "c", "line": 7, "more": {"code": "no"}}})");
  REQUIRE(head);
  CHECK(head->id == "a");
  CHECK(head->custom_id == "b");
  CHECK(head->error_code == "c");
  CHECK(head->error_line == 7);
  CHECK_FALSE(scan_record(R"({"custom_id": 5})")->custom_id.has_value());
  CHECK_FALSE(scan_record(R"({"custom_id": ""})")->custom_id.has_value());
  CHECK_FALSE(scan_record(R"({"custom_id": "a", "custom_id": null})")->custom_id.has_value());
  CHECK_FALSE(scan_record("[]").has_value());
  CHECK_FALSE(scan_record("{\"a\": 1").has_value());
  CHECK_FALSE(scan_record("").has_value());
  CHECK_FALSE(scan_record("{\"a\":" + std::string(100000, '[')).has_value());

  const ResultId id{0x123, 0xFEDCBA9876543210ULL};
  CHECK(id.text() == "batch_req_0000000000000123fedcba9876543210");
  REQUIRE(ResultId::parse(id.text()));
  CHECK(ResultId::parse(id.text())->line == id.line);
  CHECK_FALSE(ResultId::parse("batch_req_1").has_value());
  CHECK_FALSE(ResultId::parse("batch_req_000000000000012xfedcba9876543210").has_value());
  const std::string record = success_record(id, "q", {{"a", 1}});
  CHECK(record.rfind(record_start(id.run), 0) == 0);
  CHECK(scan_record(record)->custom_id == "q");
  const auto failure =
      scan_record(failure_record(id, std::nullopt, {0, "invalid_json", "no", ""}, 12));
  CHECK_FALSE(failure->custom_id.has_value());
  CHECK(failure->error_line == 12);
}

TEST_CASE("result files grow by whole lines", "[batch]") {
  const TempDir dir;
  const std::string path = (dir.path() / "out").string();
  const auto ignore = [](std::string_view, std::int64_t) {};
  {
    ResultFile file(path);
    CHECK(file.read(ignore).num_lines == 0);
    CHECK_FALSE(std::filesystem::exists(path));
    file.append("one");
    file.append("two");
    CHECK(read_file(path) == "one\ntwo\n");
    CHECK_THROWS_AS(ResultFile(path), cli::CommandError);  // another writer
  }
  dir.write("out", "one\ntwo\nthr");
  {
    ResultFile file(path);
    std::vector<std::string> lines;
    const auto contents = file.read([&](std::string_view line, std::int64_t number) {
      CHECK(number == static_cast<std::int64_t>(lines.size()) + 1);
      lines.emplace_back(line);
    });
    CHECK(lines == std::vector<std::string>{"one", "two"});
    CHECK(contents.torn == "thr");
    file.cut_torn();
    file.append("three");
    file.sync();
    CHECK(read_file(path) == "one\ntwo\nthree\n");
    CHECK(file.num_appended() == 1);
  }
  ResultFile full("/dev/full");
  CHECK_FALSE(full.is_regular());
  CHECK_THROWS_WITH(full.append("x"), "cannot write /dev/full: No space left on device");
  CHECK_THROWS_AS(ResultFile(dir.path().string()), cli::CommandError);
  ResultFile nowhere("/nonexistent/dir/out");
  CHECK_THROWS_AS(nowhere.create(), cli::CommandError);
}

ReadLine line_with(std::int64_t sequence, const std::string& text, int priority = 0,
                   const std::string& file = "") {
  ReadLine line;
  line.sequence = sequence;
  line.item = std::make_unique<BatchItem>();
  line.item->key.text = text;
  line.item->key.priority = priority;
  line.item->key.file = file;
  return line;
}

std::vector<std::int64_t> order_of(LookAhead& look_ahead) {
  std::vector<std::int64_t> order;
  while (!look_ahead.empty()) order.push_back(look_ahead.take().sequence);
  return order;
}

TEST_CASE("requests with a common beginning go together", "[batch]") {
  const std::string a(2000, 'a');
  const std::string b(2000, 'b');
  LookAhead look_ahead;
  look_ahead.add(line_with(0, a + "1"));
  look_ahead.add(line_with(1, b + "1"));
  look_ahead.add(line_with(2, "short"));
  look_ahead.add(line_with(3, b + "2"));
  look_ahead.add(line_with(4, a + "2"));
  look_ahead.add(line_with(5, "shorter"));
  look_ahead.add(line_with(6, a + "3"));
  look_ahead.add(line_with(7, b.substr(0, 1500) + "else"));
  // All of a, then the oldest and what belongs to it.
  CHECK(order_of(look_ahead) == std::vector<std::int64_t>{0, 4, 6, 1, 3, 7, 2, 5});

  // One that comes later joins its group while the group is at hand.
  look_ahead.add(line_with(10, a + "4"));
  look_ahead.add(line_with(11, "short"));
  CHECK(look_ahead.take().sequence == 10);
  look_ahead.add(line_with(12, a + "5"));
  CHECK(order_of(look_ahead) == std::vector<std::int64_t>{12, 11});
}

TEST_CASE("a common file is a common beginning; urgent requests come first", "[batch]") {
  LookAhead look_ahead;
  look_ahead.add(line_with(0, "x", 0, "doc1"));
  look_ahead.add(line_with(1, "y", 0, "doc2"));
  look_ahead.add(line_with(2, "z", 0, "doc1"));
  look_ahead.add(line_with(3, "w", -1));
  CHECK(order_of(look_ahead) == std::vector<std::int64_t>{3, 0, 2, 1});
  const PrefixKey one = line_with(0, std::string(5000, 'a')).item->key;
  PrefixKey other = one;
  CHECK(shared_bytes(one, other) == 5000);
  other.root = "salt";
  CHECK(shared_bytes(one, other) == 0);
}

TEST_CASE("keys tell apart what cannot share pages", "[batch]") {
  const auto key = [](const std::string& more) {
    return prefix_key(openai::parse_request(openai::Endpoint::kCompletions,
                                            openai::parse_object("{\"prompt\": \"a\"" + more + "}"),
                                            {}));
  };
  CHECK(key("") == key(R"(, "temperature": 1)"));
  CHECK(key("").root != key(R"(, "cache_salt": "s")").root);
  CHECK(key("").root != key(R"(, "attention": "full")").root);
  CHECK(key("").root != key(R"(, "moba_topk": 2)").root);
  CHECK(key(R"(, "priority": 4)").priority == 4);
}

TEST_CASE("the reader waits until results are written", "[batch]") {
  Mailbox mailbox(2, 1000);
  const auto post = [&](std::int64_t sequence, std::size_t bytes) {
    ReadLine line;
    line.sequence = sequence;
    line.bytes = bytes;
    return mailbox.post_line(std::move(line));
  };
  CHECK(post(0, 5000));  // one always fits
  std::atomic<int> posted{0};
  std::thread reader([&] {
    if (post(1, 10)) ++posted;
    if (post(2, 10)) ++posted;
    if (post(3, 10)) ++posted;
    mailbox.post_end(nullptr);
  });
  const auto take = [&] { return mailbox.take(std::chrono::milliseconds(2000)); };
  CHECK(take().lines.size() == 1);
  while (!mailbox.take(std::chrono::milliseconds(1)).full) std::this_thread::yield();
  CHECK(posted == 0);
  mailbox.release(5000);
  std::size_t lines = 0;
  while (lines < 2) lines += take().lines.size();
  while (!mailbox.take(std::chrono::milliseconds(1)).full) std::this_thread::yield();
  CHECK(posted == 2);
  mailbox.release(10);
  bool ended = false;
  while (lines < 3 || !ended) {
    const Mailbox::Mail mail = take();
    lines += mail.lines.size();
    ended = mail.input_ended;
  }
  reader.join();
  mailbox.post_finished(7);
  CHECK(take().finished == std::vector<std::int64_t>{7});
  mailbox.post_end(std::make_exception_ptr(std::runtime_error("no")));
  CHECK_THROWS_WITH(take(), "no");
  mailbox.close();
  CHECK_FALSE(post(9, 1));
}

TEST_CASE("progress for people", "[batch]") {
  BatchCounts counts;
  counts.finished = 5;
  counts.tokens = 1000;
  CHECK(progress_text(counts, 10) == "5 requests, 100 tok/s");
  counts.total = 2000;
  counts.skipped = 995;
  counts.failed = 2;
  CHECK(progress_text(counts, 10) == "1,000/2,000 requests, 2 failed, 100 tok/s, 33m20s left");
  counts.finished = 1005;
  CHECK(progress_text(counts, 10) == "2,000/2,000 requests, 2 failed, 100 tok/s");
}

}  // namespace
}  // namespace moba::test
