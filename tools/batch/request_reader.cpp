#include "tools/batch/request_reader.h"

#include <utility>

#include "server/openai/json_fields.h"
#include "tools/batch/record_scan.h"

namespace moba::batch {
namespace {

using openai::ApiError;
using openai::Fields;
using openai::Json;

// Beside the text itself there are its parsed form and a copy for ordering.
constexpr std::size_t kCopies = 3;
constexpr std::size_t kBytesPerLine = 2048;

LineError no_request(std::string code, std::string message, std::string param = "") {
  return {0, std::move(code), std::move(message), std::move(param)};
}

// The fields around the body. Throws ApiError; what it throws is the line's mistake, not the
// request's.
openai::Endpoint read_envelope(Fields& fields) {
  const std::string method = fields.string("method").value_or("");
  if (method.empty()) openai::refuse("method", "method is missing");
  if (method != "POST") {
    openai::refuse("method", "method is " + openai::in_quotes(method) + ", not \"POST\"");
  }
  const std::string url = fields.string("url").value_or("");
  if (url.empty()) openai::refuse("url", "url is missing");
  const auto endpoint = openai::endpoint_of(url);
  if (!endpoint) {
    openai::refuse("url", "url is " + openai::in_quotes(url) +
                              ", not one of /v1/completions, /v1/chat/completions");
  }
  return *endpoint;
}

}  // namespace

RequestReader::RequestReader(const InputFile& input, DoneIndex done, ReadOptions options,
                             const std::atomic<bool>& stop)
    : input_(input),
      done_(std::move(done)),
      options_(std::move(options)),
      begin_(options_.shard.begin(input.size())),
      end_(options_.shard.end(input.size())),
      lines_(input, stop) {}

// Of the lines of other shards only the custom_ids matter: the first of two equal ones counts.
void RequestReader::read_past(const Line& line) {
  if (line.too_long) return;
  const std::optional<RecordHead> head = scan_record(line.text);
  if (head && head->custom_id) done_.mark_read(key_of_id(*head->custom_id));
}

std::optional<ReadLine> RequestReader::next() {
  while (lines_.next(line_) && line_.offset < end_) {
    if (line_.is_blank()) continue;
    if (line_.offset < begin_) {
      read_past(line_);
      continue;
    }
    std::optional<ReadLine> read = read_line(line_);
    if (!read) continue;
    read->sequence = next_sequence_++;
    read->bytes = kBytesPerLine + kCopies * line_.text.size();
    return read;
  }
  return std::nullopt;
}

std::optional<ReadLine> RequestReader::failed(const Line& line, const ResultId& id,
                                              const std::optional<std::string>& custom_id,
                                              const LineError& error) {
  const bool by_line = !custom_id || error.code == kDuplicateCode;
  if (done_.is_done(by_line ? key_of_line(line.number) : key_of_id(*custom_id))) {
    num_skipped_.fetch_add(1, std::memory_order_relaxed);
    return std::nullopt;
  }
  ReadLine read;
  read.failure = failure_record(id, custom_id, error, line.number);
  return read;
}

std::optional<ReadLine> RequestReader::read_line(const Line& line) {
  const ResultId id{options_.run, line_hash(line.text)};
  if (line.too_long) {
    return failed(line, id, std::nullopt,
                  no_request("line_too_long", "the line is longer than " +
                                                  std::to_string(kMaxLineBytes) + " bytes"));
  }
  Json json;
  std::string custom_id;
  try {
    json = openai::parse_object(line.text);
    custom_id = Fields(json).string("custom_id").value_or("");
    if (custom_id.empty()) openai::refuse("custom_id", "custom_id is missing");
  } catch (const ApiError& error) {
    const std::string code = error.param().empty() ? "invalid_json" : "invalid_custom_id";
    return failed(line, id, std::nullopt, no_request(code, error.what(), error.param()));
  }
  const Hash128 key = key_of_id(custom_id);
  if (!done_.mark_read(key)) {
    return failed(line, id, custom_id,
                  no_request(std::string(kDuplicateCode),
                             "custom_id " + openai::in_quotes(custom_id) +
                                 " stands on an earlier line too, whose request counts",
                             "custom_id"));
  }
  if (done_.is_done(key)) {
    num_skipped_.fetch_add(1, std::memory_order_relaxed);
    return std::nullopt;
  }

  ReadLine read;
  read.item = std::make_unique<BatchItem>();
  BatchItem& item = *read.item;
  item.line_number = line.number;
  item.id = id;
  item.custom_id = custom_id;
  openai::Endpoint endpoint{};
  const Json* body = nullptr;
  try {
    Fields fields(json);
    endpoint = read_envelope(fields);
    body = fields.find("body");
    if (body == nullptr) openai::refuse("body", "body is missing");
    const Fields check(*body, "body");
  } catch (const ApiError& error) {
    return failed(line, id, custom_id, no_request("invalid_line", error.what(), error.param()));
  }
  try {
    item.request = openai::parse_request(endpoint, *body, options_.parse);
  } catch (const ApiError& error) {
    return failed(line, id, custom_id, LineError::of(error));
  }
  item.key = prefix_key(item.request);
  return read;
}

}  // namespace moba::batch
