// The server's side of one request, as the routes use it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "server/http/message.h"

namespace moba::server {

// What the access log says of a request beside what the connection knows.
struct RequestRecord {
  std::string model;
  std::int64_t num_prompt_tokens = -1;  // -1: not a request that generates
  std::int64_t num_cached_tokens = 0;
  std::int64_t num_output_tokens = 0;
  std::string finish_reason;
  std::string error;
};

// Belongs to the I/O thread, as everything that is called on it and calls back from it. Answers
// exactly once: respond(), or begin_stream() ... end_stream(). After the answer, and once the
// client has gone, calls have no effect.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const std::string& id() const = 0;
  virtual RequestRecord& record() = 0;

  virtual void respond(HttpResponse response) = 0;
  // Sends the head of an answer that comes in pieces. `response` has no body.
  virtual void begin_stream(HttpResponse response) = 0;
  // One piece. A client that does not take what is sent to it is dropped once more than a bounded
  // number of bytes waits.
  virtual void write(std::string_view piece) = 0;
  virtual void end_stream() = 0;

  // Called once if the client goes away, or is dropped, before the answer is complete.
  virtual void on_gone(std::function<void()> callback) = 0;
  virtual bool gone() const = 0;
};

// Runs functions on the I/O thread, in order. Thread-safe.
class IoThread {
 public:
  virtual ~IoThread() = default;
  virtual void post(std::function<void()> function) = 0;
};

}  // namespace moba::server
