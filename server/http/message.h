// An HTTP request as the routes see it, and what they answer. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moba::server {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query; as it was sent
  std::string authorization;
  std::string content_type;
  std::string content_encoding;
  std::string origin;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  bool close = false;  // the connection ends with it
};

}  // namespace moba::server
