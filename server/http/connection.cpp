#include "server/http/connection.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/socket_base.hpp>
#include <boost/beast/http/error.hpp>
#include <cstring>
#include <utility>

#include "server/http/status_text.h"
#include "server/openai/api_error.h"

namespace moba::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr std::size_t kSmallBuffer = 2048;
constexpr std::size_t kBodyBuffer = std::size_t{64} << 10;
// Requests that a client sends before it has the answer of the one before.
constexpr std::size_t kMaxPipelined = std::size_t{16} << 10;
constexpr std::size_t kKeptCapacity = std::size_t{16} << 10;
constexpr int kSendBuffer = 128 << 10;
constexpr double kLingerSeconds = 2;
constexpr double kBodyBytesPerSecond = 16 << 10;
constexpr std::size_t kMaxRequestId = 128;
constexpr std::string_view kComment = ": keep-alive\n\n";

double seconds_since(Clock::time_point start, Clock::time_point now) {
  return std::chrono::duration<double>(now - start).count();
}

bool is_plain_id(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestId &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':';
         });
}

HttpResponse refusal_of_parse(const error_code& error, const ServerOptions& options) {
  if (error == http::error::header_limit) {
    return error_response(431, "the head of the request has more than " +
                                   std::to_string(options.max_header_bytes) + " bytes");
  }
  if (error == http::error::body_limit) {
    return error_response(
        413, "the body has more than " + std::to_string(options.max_body_bytes) + " bytes");
  }
  return error_response(400, "this is no HTTP request: " + error.message());
}

template <typename View>
std::string to_string(const View& view) {
  return std::string(view.data(), view.size());
}

}  // namespace

std::string ConnectionHost::next_id() {
  return fmt::format("{:016x}{:08x}", id_seed, ++num_ids & 0xFFFFFFFFU);
}

// Cut off from its connection when the answer is complete or the client has gone.
class Connection::Answer : public Exchange {
 public:
  Answer(Connection& connection, std::string id) : connection_(&connection), id_(std::move(id)) {}

  const std::string& id() const override { return id_; }
  RequestRecord& record() override { return record_; }
  bool gone() const override { return gone_; }
  void on_gone(std::function<void()> callback) override { callback_ = std::move(callback); }

  void respond(HttpResponse response) override {
    if (connection_ == nullptr || begun_) return;
    begun_ = true;
    Connection& connection = *connection_;
    connection.host_.service.add_common_headers(connection.request_, response);
    connection.send_head(response, /*streamed=*/false);
    if (!connection.head_only_) connection.out_ += response.body;
    connection.answer_complete_ = true;
    connection.flush();
  }

  void begin_stream(HttpResponse response) override {
    if (connection_ == nullptr || begun_) return;
    begun_ = true;
    streaming_ = true;
    Connection& connection = *connection_;
    connection.host_.service.add_common_headers(connection.request_, response);
    connection.send_head(response, /*streamed=*/true);
    connection.flush();
  }

  void write(std::string_view piece) override {
    if (connection_ == nullptr || !streaming_ || piece.empty()) return;
    Connection& connection = *connection_;
    const std::size_t waiting =
        connection.out_.size() + connection.writing_.size() - connection.written_;
    if (waiting > static_cast<std::size_t>(connection.host_.options.max_stream_buffer)) {
      drop_slow("the client reads too slowly");
      return;
    }
    connection.send(piece);
  }

  void end_stream() override {
    if (connection_ == nullptr || !streaming_) return;
    streaming_ = false;
    Connection& connection = *connection_;
    if (connection.chunked_) connection.out_ += "0\r\n\r\n";
    connection.answer_complete_ = true;
    connection.flush();
  }

  bool streaming() const { return streaming_; }

  void drop_slow(const char* why) {
    record_.error = why;
    connection_->host_.service.metrics().count_slow_reader();
    connection_->gone();
  }

  // The answer is complete, or will never be.
  void detach(bool gone) {
    connection_ = nullptr;
    gone_ = gone;
    const std::function<void()> callback = std::move(callback_);
    callback_ = nullptr;
    if (gone && callback) callback();
  }

 private:
  Connection* connection_;
  std::string id_;
  RequestRecord record_;
  std::function<void()> callback_;
  bool begun_ = false;
  bool streaming_ = false;
  bool gone_ = false;
};

Connection::Connection(asio::ip::tcp::socket socket, ConnectionHost& host)
    : socket_(std::move(socket)), host_(host) {}

Connection::~Connection() { close(); }

void Connection::start() {
  error_code ignored;
  const auto endpoint = socket_.remote_endpoint(ignored);
  remote_ = ignored ? "?" : fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::send_buffer_size(kSendBuffer), ignored);
  socket_.non_blocking(true, ignored);
  expect_request();
  read();
}

void Connection::expect_request() {
  state_ = State::kIdle;
  phase_start_ = Clock::now();
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(static_cast<std::uint32_t>(host_.options.max_header_bytes));
  parser_->body_limit(static_cast<std::uint64_t>(host_.options.max_body_bytes));
  request_ = {};
  record_ = {};
  if (filled_ == 0) in_ = std::string();
}

void Connection::read() {
  if (reading_ || state_ == State::kClosed) return;
  if (state_ == State::kAnswering && filled_ >= kMaxPipelined) return;
  reading_ = true;
  socket_.async_wait(asio::ip::tcp::socket::wait_read,
                     [self = shared_from_this()](const error_code& error) {
                       self->reading_ = false;
                       if (self->state_ == State::kClosed) return;
                       if (error) {
                         self->gone();
                       } else {
                         self->take_bytes();
                       }
                     });
}

void Connection::take_bytes() {
  if (in_.empty()) in_.resize(kSmallBuffer);
  if (state_ == State::kBody && in_.size() < kBodyBuffer) in_.resize(kBodyBuffer);
  if (filled_ == in_.size()) in_.resize(in_.size() * 2);
  error_code error;
  const std::size_t bytes =
      socket_.read_some(asio::buffer(in_.data() + filled_, in_.size() - filled_), error);
  if (error && error != asio::error::would_block && error != asio::error::try_again) {
    gone();
    return;
  }
  filled_ += error ? 0 : bytes;
  if (state_ == State::kLingering) filled_ = 0;
  take_input();
}

void Connection::take_input() {
  if (filled_ > 0 && state_ == State::kIdle) {
    state_ = State::kHead;
    phase_start_ = Clock::now();
    request_start_ = phase_start_;
  }
  if (state_ == State::kHead || state_ == State::kBody) feed_parser();
  read();
}

void Connection::feed_parser() {
  while (filled_ > 0 && (state_ == State::kHead || state_ == State::kBody)) {
    error_code error;
    const std::size_t body_before = parser_->get().body().size();
    const std::size_t used = parser_->put(asio::const_buffer(in_.data(), filled_), error);
    filled_ -= used;
    record_.bytes_received += static_cast<std::int64_t>(used);
    std::memmove(in_.data(), in_.data() + used, filled_);
    const bool need_more = error == http::error::need_more;
    if (error && !need_more) {
      refuse(refusal_of_parse(error, host_.options));
      return;
    }
    count_body(parser_->get().body().size() - body_before);
    if (host_.body_bytes > host_.options.max_body_memory) {
      refuse(error_response(503, "too many bodies are being received", "resource_exhausted"));
      return;
    }
    if (state_ == State::kHead && parser_->is_header_done()) {
      take_head();
    } else if (state_ == State::kHead &&
               filled_ > static_cast<std::size_t>(host_.options.max_header_bytes)) {
      refuse(refusal_of_parse(http::error::header_limit, host_.options));
    }
    if (state_ == State::kBody && parser_->is_done()) dispatch();
    if (used == 0 || need_more) return;
  }
}

void Connection::count_body(std::size_t bytes) {
  counted_body_ += bytes;
  host_.body_bytes += static_cast<std::int64_t>(bytes);
}

void Connection::take_head() {
  const auto& message = parser_->get();
  state_ = State::kBody;
  phase_start_ = Clock::now();
  request_.method = to_string(message.method_string());
  const std::string target = to_string(message.target());
  request_.path = target.substr(0, target.find('?'));
  request_.authorization = to_string(message[http::field::authorization]);
  request_.content_type = to_string(message[http::field::content_type]);
  request_.content_encoding = to_string(message[http::field::content_encoding]);
  request_.origin = to_string(message[http::field::origin]);
  head_only_ = request_.method == "HEAD";
  keep_alive_ = parser_->keep_alive();
  chunked_ = message.version() >= 11;
  record_.method = request_.method;
  record_.path = request_.path;
  const std::string id = to_string(message["X-Request-Id"]);
  record_.request_id = is_plain_id(id) ? id : host_.next_id();
  if (std::optional<HttpResponse> refusal = host_.service.refusal_of(request_)) {
    refuse(std::move(*refusal));
    return;
  }
  if (parser_->is_done() || message.version() < 11) return;
  const std::string expect = to_string(message[http::field::expect]);
  if (expect == "100-continue") {
    out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    flush();
  }
}

void Connection::dispatch() {
  state_ = State::kAnswering;
  request_.body = std::move(parser_->get().body());
  // What of the head was not taken is not needed.
  parser_.reset();
  answer_ = std::make_shared<Answer>(*this, record_.request_id);
  answer_complete_ = false;
  ++host_.num_requests;
  counted_request_ = true;
  host_.service.set_load({host_.num_connections, host_.num_requests});
  HttpRequest whole = std::move(request_);
  request_ = {};
  request_.origin = whole.origin;
  const std::shared_ptr<Exchange> exchange = answer_;
  host_.service.handle(std::move(whole), exchange);
}

// Answers before the body has come, or what is no request. The connection goes on only if there is
// nothing left of the request.
void Connection::refuse(HttpResponse response) {
  const bool whole = parser_ && parser_->is_done();
  if (!whole || response.close) keep_alive_ = false;
  if (record_.request_id.empty()) record_.request_id = host_.next_id();
  state_ = State::kAnswering;
  answer_ = std::make_shared<Answer>(*this, record_.request_id);
  answer_complete_ = false;
  parser_.reset();
  const std::shared_ptr<Answer> answer = answer_;
  answer->respond(std::move(response));
}

void Connection::send_head(const HttpResponse& response, bool streamed) {
  if (host_.draining || response.close) keep_alive_ = false;
  const bool has_body = response.status != 204;
  const bool delimited = !streamed || chunked_;
  if (!delimited) keep_alive_ = false;
  close_after_ = !keep_alive_;
  record_.status = response.status;
  out_ += fmt::format("HTTP/1.1 {} {}\r\n", response.status, status_text(response.status));
  if (!response.content_type.empty()) {
    out_ += fmt::format("Content-Type: {}\r\n", response.content_type);
  }
  if (!streamed && has_body) out_ += fmt::format("Content-Length: {}\r\n", response.body.size());
  if (streamed && chunked_) out_ += "Transfer-Encoding: chunked\r\n";
  for (const auto& [name, value] : response.headers) {
    out_ += fmt::format("{}: {}\r\n", name, value);
  }
  out_ += fmt::format("X-Request-Id: {}\r\nConnection: {}\r\n\r\n", record_.request_id,
                      keep_alive_ ? "keep-alive" : "close");
  record_.first_byte_seconds = seconds_since(request_start_, Clock::now());
}

void Connection::send(std::string_view bytes) {
  if (chunked_) {
    fmt::format_to(std::back_inserter(out_), "{:x}\r\n", bytes.size());
    out_ += bytes;
    out_ += "\r\n";
  } else {
    out_ += bytes;
  }
  flush();
}

void Connection::flush() {
  if (write_under_way_ || state_ == State::kClosed) return;
  if (written_ == writing_.size()) {
    if (writing_.capacity() > kKeptCapacity) {
      writing_ = std::string();
    } else {
      writing_.clear();
    }
    written_ = 0;
    writing_.swap(out_);
    if (writing_.empty()) {
      if (answer_complete_ && answer_) answered();
      return;
    }
    last_write_ = Clock::now();
  }
  error_code error;
  const std::size_t bytes = socket_.write_some(
      asio::const_buffer(writing_.data() + written_, writing_.size() - written_), error);
  if (error && error != asio::error::would_block && error != asio::error::try_again) {
    gone();
    return;
  }
  wrote(bytes);
}

void Connection::wrote(std::size_t bytes) {
  written_ += bytes;
  record_.bytes_sent += static_cast<std::int64_t>(bytes);
  if (bytes > 0) last_write_ = Clock::now();
  if (written_ == writing_.size()) {
    flush();
    return;
  }
  write_under_way_ = true;
  socket_.async_wait(asio::ip::tcp::socket::wait_write,
                     [self = shared_from_this()](const error_code& error) {
                       self->write_under_way_ = false;
                       if (self->state_ == State::kClosed) return;
                       if (error) {
                         self->gone();
                       } else {
                         self->flush();
                       }
                     });
}

void Connection::log_answer(bool complete) {
  if (counted_request_) {
    --host_.num_requests;
    counted_request_ = false;
  }
  host_.body_bytes -= static_cast<std::int64_t>(counted_body_);
  counted_body_ = 0;
  record_.complete = complete;
  record_.remote = remote_;
  record_.seconds = seconds_since(request_start_, Clock::now());
  record_.request = answer_->record();
  host_.service.metrics().count_response(Service::route_name(record_.path),
                                         known_method(record_.method), record_.status);
  host_.log.write(record_);
}

void Connection::answered() {
  log_answer(/*complete=*/true);
  const std::shared_ptr<Answer> answer = std::move(answer_);
  answer_.reset();
  answer->detach(/*gone=*/false);
  if (close_after_ || host_.draining) {
    linger();
    return;
  }
  expect_request();
  // Not from here: many requests may wait in a row.
  if (filled_ > 0) {
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      if (self->state_ == State::kIdle) self->take_input();
    });
  }
}

// A connection that is closed with input unread is reset, and the client may never see the answer.
void Connection::linger() {
  state_ = State::kLingering;
  phase_start_ = Clock::now();
  filled_ = 0;
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  read();
}

void Connection::gone() {
  const std::shared_ptr<Connection> self = weak_from_this().lock();
  close();
}

void Connection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  if (answer_) {
    log_answer(/*complete=*/false);
    const std::shared_ptr<Answer> answer = std::move(answer_);
    answer_.reset();
    answer->detach(/*gone=*/true);
  }
  host_.body_bytes -= static_cast<std::int64_t>(counted_body_);
  counted_body_ = 0;
  error_code ignored;
  socket_.close(ignored);
}

void Connection::drain() {
  if (state_ == State::kIdle) close();
}

void Connection::check_deadlines(Clock::time_point now) {
  const ServerOptions& options = host_.options;
  const double phase = seconds_since(phase_start_, now);
  switch (state_) {
    case State::kIdle:
      if (phase > options.idle_timeout) close();
      break;
    case State::kHead:
      if (phase > options.header_timeout) {
        refuse(error_response(408, "the head of the request did not come in time"));
      }
      break;
    case State::kBody:
      if (phase > options.body_timeout + static_cast<double>(counted_body_) / kBodyBytesPerSecond) {
        refuse(error_response(408, "the body of the request did not come in time"));
      }
      break;
    case State::kAnswering:
      if (write_under_way_) {
        if (seconds_since(last_write_, now) > options.write_timeout && answer_) {
          answer_->drop_slow("the client does not read");
        }
      } else if (answer_ && answer_->streaming() &&
                 seconds_since(last_write_, now) > options.keep_alive) {
        send(kComment);
      }
      break;
    case State::kLingering:
      if (phase > kLingerSeconds) close();
      break;
    case State::kClosed:
      break;
  }
}

}  // namespace moba::server
