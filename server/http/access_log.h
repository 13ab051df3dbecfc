// One line of JSON for each request.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "server/http/exchange.h"

namespace spdlog {
class logger;
}

namespace moba::server {

struct AccessRecord {
  std::string request_id;
  std::string remote;  // address and port
  std::string method;
  std::string path;
  int status = 0;  // 0: the client went away before there was an answer
  std::int64_t bytes_received = 0;
  std::int64_t bytes_sent = 0;
  double seconds = 0;
  double first_byte_seconds = 0;
  bool complete = true;  // false: the client went away, or was dropped
  RequestRecord request;
};

// Written by a thread of its own: a log that cannot be written as fast loses its oldest lines and
// never holds up a request. Thread-safe.
class AccessLog {
 public:
  // "-": standard output; "": nothing is logged. Throws std::runtime_error naming a file that
  // cannot be opened.
  explicit AccessLog(const std::string& path);
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  bool enabled() const { return logger_ != nullptr; }
  void write(const AccessRecord& record);

 private:
  std::shared_ptr<void> threads_;
  std::shared_ptr<spdlog::logger> logger_;
};

// The line, without its end. `unix_seconds` is the time of the request's end.
std::string access_line(const AccessRecord& record, double unix_seconds);

}  // namespace moba::server
