// A request that cannot be served, in the shape that clients of the OpenAI API know.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "moba/status.h"

namespace moba::openai {

// JSON that comes in; JSON that goes out keeps the order of its keys.
using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// what() is one line for people that names the field and the value.
class ApiError : public std::runtime_error {
 public:
  // `status` is the one of HTTP. `param` names the field that is wrong, `code` the kind of error
  // for programs; both may be empty.
  ApiError(int status, const std::string& message, std::string param = "", std::string code = "")
      : std::runtime_error(message),
        status_(status),
        param_(std::move(param)),
        code_(std::move(code)) {}

  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }

 private:
  int status_;
  std::string param_;
  std::string code_;
};

// 400: the client's mistake in the field `param` ("" for the body as a whole).
[[noreturn]] void refuse(const std::string& param, const std::string& message);

// What an engine's refusal or failure (not kOk) is to a client.
ApiError to_api_error(const Status& status);

// {"error": {"message", "type", "param", "code"}}.
OrderedJson error_json(const ApiError& error);

// On one line; bytes that are not UTF-8 become U+FFFD, numbers that are not finite null.
std::string to_text(const OrderedJson& json);

// `text` in double quotes for a message: control characters escaped, shortened after 60 bytes.
std::string in_quotes(std::string_view text);

}  // namespace moba::openai
