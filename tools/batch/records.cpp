#include "tools/batch/records.h"

#include <utility>

namespace moba::batch {
namespace {

using openai::OrderedJson;

constexpr int kOk = 200;

std::string request_id(const ResultId& id) { return "req_" + to_hex(id.run) + to_hex(id.line); }

}  // namespace

LineError LineError::of(const openai::ApiError& error) {
  return {error.status(), error.code().empty() ? "invalid_request" : error.code(), error.what(),
          error.param()};
}

std::string success_record(const ResultId& id, const std::string& custom_id, OrderedJson body) {
  OrderedJson record{{"id", id.text()}, {"custom_id", custom_id}};
  record["response"]["status_code"] = kOk;
  record["response"]["request_id"] = request_id(id);
  record["response"]["body"] = std::move(body);
  record["error"] = nullptr;
  return openai::to_text(record);
}

std::string failure_record(const ResultId& id, const std::optional<std::string>& custom_id,
                           const LineError& error, std::int64_t line) {
  OrderedJson record{{"id", id.text()}};
  record["custom_id"] = custom_id ? OrderedJson(*custom_id) : OrderedJson(nullptr);
  record["response"] = nullptr;
  if (error.status != 0) {
    const openai::ApiError api_error(error.status, error.message, error.param, error.code);
    record["response"] = {{"status_code", error.status},
                          {"request_id", request_id(id)},
                          {"body", openai::error_json(api_error)}};
  }
  record["error"] = {
      {"code", error.code},
      {"message", error.message},
      {"param", error.param.empty() ? OrderedJson(nullptr) : OrderedJson(error.param)},
      {"line", line}};
  return openai::to_text(record);
}

}  // namespace moba::batch
