// How the library's public functions report failure.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace moba {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,    // the caller's request or configuration
  kInvalidCheckpoint,  // a file of the checkpoint
  kResourceExhausted,  // memory: the numbers are in the message
  kCancelled,
  kInternal,
};

// Success, or a code and one line for people that names the thing and the numbers. Copyable; a
// value.
class Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A value, or the status that says why there is none.
template <typename T>
class Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  // Only if ok().
  T& value() { return *value_; }
  const T& value() const { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace moba
