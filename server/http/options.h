// How the server is set up. The defaults stand here and nowhere else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moba::server {

struct ServerOptions {
  std::string host = "127.0.0.1";  // an address or a name
  int port = 8000;                 // 0: any that is free
  // Any of them opens every route; none: no key is asked for.
  std::vector<std::string> api_keys;
  // Names of the model in requests and answers; the first is the one in answers to requests that
  // name none. At least one.
  std::vector<std::string> model_names;
  // Origins of web pages that may use the API from a browser; "*": all.
  std::vector<std::string> allowed_origins;
  // A line of JSON for each request: a file, "-" for standard output, "" for none.
  std::string access_log = "-";

  int max_connections = 4096;
  std::int64_t max_header_bytes = 64 << 10;
  std::int64_t max_body_bytes = std::int64_t{32} << 20;
  // Of all bodies that are being received or wait for their turn.
  std::int64_t max_body_memory = std::int64_t{256} << 20;
  // Bytes of an answer that may wait for a client that reads slowly.
  std::int64_t max_stream_buffer = std::int64_t{1} << 20;

  // Seconds.
  double header_timeout = 10;  // for a request's head, from its first byte on
  double body_timeout = 30;    // for a body, beside a second for each 16 KiB received
  double idle_timeout = 75;    // between two requests of a connection
  double write_timeout = 30;   // without the client taking a byte of what is sent to it
  double keep_alive = 15;      // of silence, after which a stream gets a comment
  double request_timeout = 0;  // for an answer; what there is by then is sent. 0: no limit

  int num_workers = 1;  // threads that read bodies, tokenise and build long answers
};

}  // namespace moba::server
