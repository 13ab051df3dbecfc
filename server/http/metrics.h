// What /metrics says.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "moba/engine.h"

namespace moba::server {

// Counters of the HTTP side, and the text of all metrics in Prometheus's format 0.0.4. Belongs to
// the I/O thread.
class Metrics {
 public:
  // A request to the engine that ended: "stop", "length", "abort" or "error".
  void count_finished(std::string_view reason) { ++finished_[std::string(reason)]; }
  // An answer; `route` is one of the server's own routes, or "other".
  void count_response(std::string_view route, std::string_view method, int status) {
    ++responses_[{std::string(route), std::string(method), status}];
  }
  // A client that did not take its answer in time.
  void count_slow_reader() { ++num_slow_readers_; }

  struct Now {
    std::int64_t num_connections = 0;
    std::int64_t num_requests = 0;  // being answered
  };
  // Without an engine there are the server's own metrics only.
  std::string text(const Engine* engine, const std::string& model_name, const Now& now) const;

 private:
  std::map<std::string, std::int64_t> finished_;
  std::map<std::tuple<std::string, std::string, int>, std::int64_t> responses_;
  std::int64_t num_slow_readers_ = 0;
};

}  // namespace moba::server
