// The HTTP server.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "server/http/options.h"
#include "server/http/served_model.h"

namespace moba::server {

// Listens from its construction on, with one thread for all connections. Until it has a model,
// /health and the API answer 503. Methods are for one thread, which is not one of its own.
class Server {
 public:
  // Throws std::runtime_error naming the address, the key or the file that is wrong.
  explicit Server(ServerOptions options);
  // Drops what is left.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::uint16_t port() const;
  // Once. The engine must outlive stop().
  void serve(ServedModel model);
  // No new connections and no new requests; idle connections are closed.
  void drain();
  // Waits at most that long for the last answer; whether there is none left.
  bool wait_drained(std::chrono::duration<double> timeout);
  // Cancels what is being answered and ends all threads. The engine is not used any more.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moba::server
