// The flags of the HTTP server.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "server/http/options.h"

namespace moba::serve {

class ServeOptions {
 public:
  explicit ServeOptions(CLI::App& app);

  // Throws UsageError and, for a file with keys, CommandError. model_names may be empty.
  server::ServerOptions read() const;
  std::optional<std::string> chat_template() const;
  double drain_timeout() const;  // seconds

 private:
  CLI::Option* host_;
  CLI::Option* port_;
  CLI::Option* api_key_;
  CLI::Option* api_key_file_;
  CLI::Option* model_name_;
  CLI::Option* chat_template_;
  CLI::Option* origins_;
  CLI::Option* access_log_;
  CLI::Option* drain_timeout_;
  CLI::Option* max_connections_;
  CLI::Option* max_header_;
  CLI::Option* max_body_;
  CLI::Option* max_body_memory_;
  CLI::Option* max_stream_buffer_;
  CLI::Option* header_timeout_;
  CLI::Option* body_timeout_;
  CLI::Option* idle_timeout_;
  CLI::Option* write_timeout_;
  CLI::Option* keep_alive_;
  CLI::Option* request_timeout_;
  CLI::Option* workers_;
};

}  // namespace moba::serve
