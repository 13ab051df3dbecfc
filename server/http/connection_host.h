// What a connection needs of the server.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "server/http/access_log.h"
#include "server/http/options.h"
#include "server/http/service.h"

namespace moba::server {

using Clock = std::chrono::steady_clock;

// Belongs to the I/O thread.
struct ConnectionHost {
  const ServerOptions& options;
  Service& service;
  AccessLog& log;
  bool draining = false;
  std::int64_t body_bytes = 0;    // of all bodies that are being received or wait
  std::int64_t num_requests = 0;  // being answered
  std::int64_t num_connections = 0;
  std::uint64_t id_seed = 0;  // random
  std::uint64_t num_ids = 0;

  // 24 hexadecimal digits, different for each call.
  std::string next_id();
};

}  // namespace moba::server
