// One client's connection.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/parser.hpp>
#include <memory>
#include <optional>
#include <string>

#include "server/http/connection_host.h"
#include "server/http/growing_body.h"

namespace moba::server {

// Reads requests one after another and writes their answers. It reads on while it answers, to
// notice a client that goes away. Belongs to the I/O thread; alive while an operation of its socket
// is under way.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, ConnectionHost& host);
  ~Connection();

  void start();
  // Called a few times a second.
  void check_deadlines(Clock::time_point now);
  // The server ends: closes if nothing is being answered.
  void drain();
  void close();
  bool open() const { return state_ != State::kClosed; }

 private:
  class Answer;
  enum class State { kIdle, kHead, kBody, kAnswering, kLingering, kClosed };
  using Parser = boost::beast::http::request_parser<GrowingBody>;

  void expect_request();
  void read();
  void take_bytes();
  void take_input();
  void feed_parser();
  void take_head();
  void dispatch();
  void refuse(HttpResponse response);
  void count_body(std::size_t bytes);

  void send_head(const HttpResponse& response, bool streamed);
  void send(std::string_view bytes);
  void flush();
  void wrote(std::size_t bytes);
  void answered();
  void log_answer(bool complete);
  void linger();
  void gone();

  boost::asio::ip::tcp::socket socket_;
  ConnectionHost& host_;
  State state_ = State::kIdle;
  std::string remote_;

  // Input: bytes [0, filled_) of in_ wait for the parser.
  std::string in_;
  std::size_t filled_ = 0;
  bool reading_ = false;
  std::optional<Parser> parser_;
  HttpRequest request_;
  std::size_t counted_body_ = 0;   // bytes in host_.body_bytes
  Clock::time_point phase_start_;  // of a head or a body, or of idleness

  // Output: bytes of writing_ from written_ on are with the socket, then out_.
  std::string out_;
  std::string writing_;
  std::size_t written_ = 0;
  bool write_under_way_ = false;
  Clock::time_point last_write_;

  std::shared_ptr<Answer> answer_;
  bool counted_request_ = false;
  bool keep_alive_ = false;
  bool chunked_ = false;
  bool head_only_ = false;
  bool answer_complete_ = false;  // all of it is in writing_ and out_
  bool close_after_ = false;
  AccessRecord record_;
  Clock::time_point request_start_;
};

}  // namespace moba::server
