// The lines of the output and of the error file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/openai/api_error.h"
#include "tools/batch/run_id.h"

namespace moba::batch {

// error.code of a line whose custom_id an earlier line has.
inline constexpr std::string_view kDuplicateCode = "duplicate_custom_id";

// Why a line of the input has no answer. `status` 0: it is no request at all; else the status that
// the API answers the request with.
struct LineError {
  int status = 0;
  std::string code;
  std::string message;
  std::string param;

  static LineError of(const openai::ApiError& error);
};

// {"id", "custom_id", "response": {"status_code": 200, "request_id", "body"}, "error": null}.
std::string success_record(const ResultId& id, const std::string& custom_id,
                           openai::OrderedJson body);

// The same with "error": {"code", "message", "param", "line"}, and as response null or the API's
// answer. `line` is the number of the line in the input.
std::string failure_record(const ResultId& id, const std::optional<std::string>& custom_id,
                           const LineError& error, std::int64_t line);

}  // namespace moba::batch
