#include "tools/serve/serve_options.h"

#include <sstream>
#include <stdexcept>

#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/options.h"
#include "tools/moba/parse.h"

namespace moba::serve {
namespace {

constexpr const char* kServer = "Server";
constexpr const char* kLimits = "Limits of the server";
constexpr std::int64_t kMaxKeyFileBytes = 1 << 20;
constexpr double kDrainTimeout = 30;
constexpr int kMaxPort = 65535;

// The value of a flag through a reader that throws std::invalid_argument; nothing if it is not
// given.
template <typename T>
void read_if(const CLI::Option* option, T (*reader)(std::string_view), T least, T& target) {
  const std::optional<std::string> text = cli::value_of(option);
  if (!text) return;
  try {
    target = reader(*text);
    if (target < least) throw std::invalid_argument("is too small: " + *text);
  } catch (const std::invalid_argument& error) {
    throw cli::UsageError(option->get_name() + ": " + error.what());
  }
}

void read_count(const CLI::Option* option, std::int64_t least, int& target) {
  if (const auto value = cli::integer_of(option, least)) {
    if (*value > (1 << 30)) throw cli::UsageError(option->get_name() + ": is too large");
    target = static_cast<int>(*value);
  }
}

// One key a line.
std::vector<std::string> read_keys(const std::string& path) {
  std::vector<std::string> keys;
  std::istringstream lines(cli::read_input(path, kMaxKeyFileBytes));
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) keys.push_back(line);
  }
  if (keys.empty()) throw cli::CommandError(path + " holds no key");
  return keys;
}

}  // namespace

ServeOptions::ServeOptions(CLI::App& app) {
  const auto add = [&app](const char* flag, const char* value, const char* help,
                          const char* group) {
    return cli::add_text_option(app, flag, value, help, group);
  };
  host_ = add("--host", "HOST",
              "Address to listen on; 0.0.0.0: all of this machine's (default: 127.0.0.1)", kServer);
  port_ = add("--port", "N", "Port to listen on; 0: any that is free (default: 8000)", kServer);
  api_key_ = add("--api-key", "KEY",
                 "Key that every request but /health must carry; repeatable. Other users of the "
                 "machine can see it in the list of processes: better in a file (default: none)",
                 kServer);
  api_key_file_ = add("--api-key-file", "FILE", "File with such keys, one a line", kServer);
  model_name_ = add("--served-model-name", "NAME",
                    "The model's name in requests and answers; repeatable (default: the "
                    "directory's)",
                    kServer);
  chat_template_ =
      add("--chat-template", "FILE",
          "Template for chats, in the Jinja language (default: the checkpoint's)", kServer);
  origins_ = add("--allowed-origins", "ORIGIN",
                 "Origin of web pages elsewhere that may use the API; *: all; repeatable "
                 "(default: none)",
                 kServer);
  access_log_ = add("--access-log", "FILE",
                    "A line of JSON for each request; - is standard output, none turns it off "
                    "(default: -)",
                    kServer);
  drain_timeout_ =
      add("--drain-timeout", "SECONDS",
          "Time that running requests have to end after SIGTERM (default: 30)", kServer);
  workers_ =
      add("--request-threads", "N",
          "Threads that read bodies, apply the chat template and tokenise (default: 1)", kServer);
  max_connections_ = add("--max-connections", "N", "Open connections (default: 4096)", kLimits);
  max_header_ = add("--max-header-size", "SIZE", "Head of a request (default: 64K)", kLimits);
  max_body_ = add("--max-body-size", "SIZE", "Body of a request (default: 32M)", kLimits);
  max_body_memory_ = add("--max-body-memory", "SIZE",
                         "All bodies that are being received or wait (default: 256M)", kLimits);
  max_stream_buffer_ = add("--max-stream-buffer", "SIZE",
                           "What may wait for a client that reads slowly before it is dropped "
                           "(default: 1M)",
                           kLimits);
  header_timeout_ =
      add("--header-timeout", "SECONDS", "For the head of a request (default: 10)", kLimits);
  body_timeout_ =
      add("--body-timeout", "SECONDS",
          "For the body of a request, beside a second for each 16 KiB (default: 30)", kLimits);
  idle_timeout_ = add("--idle-timeout", "SECONDS",
                      "For the next request of a connection (default: 75)", kLimits);
  write_timeout_ = add("--write-timeout", "SECONDS",
                       "For a client to take anything of its answer (default: 30)", kLimits);
  keep_alive_ = add("--stream-keep-alive", "SECONDS",
                    "Silence after which a stream gets a comment, so that proxies keep it "
                    "(default: 15)",
                    kLimits);
  request_timeout_ =
      add("--request-timeout", "SECONDS",
          "For an answer; it ends with what there is by then (default: 0, none)", kLimits);
}

server::ServerOptions ServeOptions::read() const {
  server::ServerOptions options;
  if (const auto host = cli::value_of(host_)) options.host = *host;
  read_count(port_, 0, options.port);
  if (options.port > kMaxPort) throw cli::UsageError("--port: expected at most 65535");
  options.api_keys = api_key_->results();
  for (const std::string& key : options.api_keys) {
    if (key.empty()) throw cli::UsageError("--api-key: the key is empty");
  }
  for (const std::string& path : api_key_file_->results()) {
    const std::vector<std::string> keys = read_keys(path);
    options.api_keys.insert(options.api_keys.end(), keys.begin(), keys.end());
  }
  options.model_names = model_name_->results();
  options.allowed_origins = origins_->results();
  if (const auto path = cli::value_of(access_log_)) {
    options.access_log = *path == "none" ? "" : *path;
  }
  read_count(max_connections_, 1, options.max_connections);
  read_count(workers_, 1, options.num_workers);
  read_if<std::int64_t>(max_header_, cli::parse_size, 256, options.max_header_bytes);
  read_if<std::int64_t>(max_body_, cli::parse_size, 1, options.max_body_bytes);
  read_if<std::int64_t>(max_body_memory_, cli::parse_size, 1, options.max_body_memory);
  read_if<std::int64_t>(max_stream_buffer_, cli::parse_size, 1, options.max_stream_buffer);
  if (options.max_header_bytes > (std::int64_t{1} << 30)) {
    throw cli::UsageError("--max-header-size: is too large");
  }
  read_if<double>(header_timeout_, cli::parse_number, 0.1, options.header_timeout);
  read_if<double>(body_timeout_, cli::parse_number, 0.1, options.body_timeout);
  read_if<double>(idle_timeout_, cli::parse_number, 0.1, options.idle_timeout);
  read_if<double>(write_timeout_, cli::parse_number, 0.1, options.write_timeout);
  read_if<double>(keep_alive_, cli::parse_number, 0.1, options.keep_alive);
  read_if<double>(request_timeout_, cli::parse_number, 0.0, options.request_timeout);
  return options;
}

std::optional<std::string> ServeOptions::chat_template() const {
  return cli::value_of(chat_template_);
}

double ServeOptions::drain_timeout() const {
  double seconds = kDrainTimeout;
  read_if<double>(drain_timeout_, cli::parse_number, 0.0, seconds);
  return seconds;
}

}  // namespace moba::serve
