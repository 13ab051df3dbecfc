#include "tools/batch/resume.h"

#include <string>

#include "tools/batch/record_scan.h"
#include "tools/batch/records.h"
#include "tools/batch/run_id.h"
#include "tools/moba/errors.h"
#include "tools/moba/parse.h"

namespace moba::batch {
namespace {

[[noreturn]] void not_ours(const ResultFile& file, const std::string& why) {
  throw cli::CommandError(file.name() + " is not of this run: " + why +
                          "; give another output file, or take this one away");
}

struct Result {
  Hash128 key;
  ResultId id;
  bool failed;
  std::string name;  // for people
};

// Throws if the line is no result of the run.
Result read_result(std::string_view line, std::int64_t number, std::uint64_t run,
                   const ResultFile& file) {
  const std::string at = "line " + std::to_string(number);
  const std::optional<RecordHead> head = scan_record(line);
  if (!head) not_ours(file, at + " is not JSON");
  const std::optional<ResultId> id = ResultId::parse(head->id.value_or(""));
  if (!id) not_ours(file, at + " was not written by moba batch");
  if (id->run != run) not_ours(file, at + " is of a run with another model or other settings");
  // Of several lines with one custom_id the first has that name; the others are known by number.
  const bool by_line = !head->custom_id || head->error_code == kDuplicateCode;
  const bool failed = !head->error_code.empty();
  if (!by_line) {
    return {key_of_id(*head->custom_id), *id, failed,
            at + ", custom_id " + cli::in_quotes(*head->custom_id) + ","};
  }
  return {key_of_line(head->error_line), *id, failed,
          at + " on line " + std::to_string(head->error_line) + " of the input"};
}

// Returns what stands after the last newline.
std::string read_results(ResultFile& file, std::uint64_t run, Finished& finished) {
  const ResultFile::Contents contents = file.read([&](std::string_view line, std::int64_t number) {
    const Result result = read_result(line, number, run, file);
    if (!finished.done.add_done(result.key, result.id.line)) {
      not_ours(file, result.name + " stands there twice");
    }
    if (result.failed) ++finished.num_failed;
  });
  const std::string start = record_start(run);
  if (contents.torn.substr(0, start.size()) != start.substr(0, contents.torn.size())) {
    not_ours(file, "its last line is not JSON");
  }
  return contents.torn;
}

void confirm(const InputFile& input, const Shard& shard, const std::atomic<bool>& stop,
             DoneIndex& done) {
  LineReader reader(input, stop);
  Line line;
  while (reader.next(line) && line.offset < shard.end(input.size())) {
    if (line.offset < shard.begin(input.size())) continue;
    const std::uint64_t hash = line_hash(line.text);
    done.confirm(key_of_line(line.number), hash);
    if (line.too_long) continue;
    const std::optional<RecordHead> head = scan_record(line.text);
    if (head && head->custom_id) done.confirm(key_of_id(*head->custom_id), hash);
  }
}

// Finds the first result that the input does not have, for the message.
void name_unconfirmed(ResultFile& file, std::uint64_t run, const DoneIndex& done) {
  file.read([&](std::string_view line, std::int64_t number) {
    const Result result = read_result(line, number, run, file);
    if (!done.is_confirmed(result.key)) {
      not_ours(file, result.name + " answers no request of the input");
    }
  });
}

}  // namespace

Finished find_finished(const InputFile& input, const Shard& shard, std::uint64_t run,
                       ResultFile& output, ResultFile* errors, const std::atomic<bool>& stop) {
  Finished finished;
  const std::string torn_output = read_results(output, run, finished);
  const std::string torn_errors =
      errors != nullptr ? read_results(*errors, run, finished) : std::string();
  if (finished.done.num_done() > 0) {
    if (!input.is_regular()) {
      throw cli::CommandError("cannot go on with " + output.name() + ": " + input.name() +
                              " is no file that can be read twice");
    }
    confirm(input, shard, stop, finished.done);
    if (stop.load()) return finished;
    if (finished.done.num_unconfirmed() > 0) {
      name_unconfirmed(output, run, finished.done);
      if (errors != nullptr) name_unconfirmed(*errors, run, finished.done);
    }
  }
  if (!torn_output.empty()) output.cut_torn();
  if (!torn_errors.empty()) errors->cut_torn();
  return finished;
}

}  // namespace moba::batch
