#include "tools/load/load_run.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "server/openai/api_error.h"

namespace moba::load {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using openai::Json;

constexpr auto kTick = std::chrono::milliseconds(100);

double seconds_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

std::string head_of(const Target& target, const std::string& method, const std::string& path) {
  std::string head =
      method + " " + path + " HTTP/1.1\r\nHost: " + target.host + "\r\nConnection: close\r\n";
  if (!target.api_key.empty()) head += "Authorization: Bearer " + target.api_key + "\r\n";
  return head;
}

using Parser = http::response_parser<http::string_body>;

void set_up(Parser& parser) {
  parser.eager(true);
  parser.body_limit(boost::none);
}

// One request on a connection of its own.
class Client : public std::enable_shared_from_this<Client> {
 public:
  Client(asio::io_context& io, std::string request, LoadResult& result,
         std::function<void()> on_end)
      : socket_(io), request_(std::move(request)), result_(result), on_end_(std::move(on_end)) {
    set_up(parser_);
  }

  void start(const tcp::endpoint& endpoint) {
    start_ = Clock::now();
    socket_.async_connect(endpoint, [self = shared_from_this()](const error_code& error) {
      if (error) return self->end("cannot connect: " + error.message());
      self->send();
    });
  }

 private:
  void send() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    asio::async_write(socket_, asio::buffer(request_),
                      [self = shared_from_this()](const error_code& error, std::size_t) {
                        if (error) return self->end("cannot send: " + error.message());
                        self->request_ = std::string();
                        self->read();
                      });
  }

  void read() {
    constexpr std::size_t kStep = 4096;
    if (in_.size() < filled_ + kStep) in_.resize(filled_ + kStep);
    socket_.async_read_some(
        asio::buffer(in_.data() + filled_, in_.size() - filled_),
        [self = shared_from_this()](const error_code& error, std::size_t bytes) {
          if (error) return self->end("the connection was closed");
          self->filled_ += bytes;
          self->take();
        });
  }

  void take() {
    const Clock::time_point now = Clock::now();
    error_code error;
    while (filled_ > 0 && !parser_.is_done()) {
      const std::size_t used = parser_.put(asio::const_buffer(in_.data(), filled_), error);
      in_.erase(0, used);
      filled_ -= used;
      if (error == http::error::need_more) error = {};
      if (error) return end("no HTTP: " + error.message());
      if (used == 0) break;
    }
    if (parser_.is_header_done() && parser_.get().result_int() == 200) take_events(now);
    if (!parser_.is_done()) return read();
    const auto status = parser_.get().result_int();
    if (status != 200) {
      return end("status " + std::to_string(status) + ": " + parser_.get().body().substr(0, 300));
    }
    end(ended_ ? failure_ : "the stream ended without [DONE]");
  }

  void take_events(Clock::time_point now) {
    std::string& body = parser_.get().body();
    std::size_t begin = 0;
    for (std::size_t stop = 0; (stop = body.find("\n\n", begin)) != std::string::npos;
         begin = stop + 2) {
      take_event(std::string_view(body).substr(begin, stop - begin), now);
    }
    body.erase(0, begin);
  }

  void take_event(std::string_view event, Clock::time_point now) {
    constexpr std::string_view kData = "data: ";
    if (event.substr(0, kData.size()) != kData) return;
    event.remove_prefix(kData.size());
    if (event == "[DONE]") {
      ended_ = true;
      return;
    }
    // Chunks with a token are the most by far; they need not be parsed.
    if (event.find("\"usage\":null") != std::string_view::npos &&
        event.find("\"finish_reason\":null") != std::string_view::npos) {
      take_token(now);
      return;
    }
    const Json json = Json::parse(event, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return;
    if (json.contains("error")) failure_ = json.at("error").value("message", "failed");
    const auto usage = json.find("usage");
    if (usage == json.end() || !usage->is_object()) return;
    result_.num_prompt_tokens = usage->value("prompt_tokens", std::int64_t{0});
    result_.num_output_tokens = usage->value("completion_tokens", std::int64_t{0});
    const Json details = usage->value("prompt_tokens_details", Json::object());
    if (details.is_object()) {
      result_.num_cached_tokens = details.value("cached_tokens", std::int64_t{0});
    }
  }

  void take_token(Clock::time_point now) {
    const double seconds = seconds_between(start_, now);
    if (result_.first_token_seconds == 0) {
      result_.first_token_seconds = seconds;
    } else {
      result_.gaps.push_back(static_cast<float>(seconds - result_.last_token_seconds));
    }
    result_.last_token_seconds = seconds;
  }

  void end(std::string error) {
    result_.error = std::move(error);
    error_code ignored;
    socket_.close(ignored);
    on_end_();
  }

  tcp::socket socket_;
  std::string request_;
  LoadResult& result_;
  std::function<void()> on_end_;
  Parser parser_;
  std::string in_;
  std::size_t filled_ = 0;
  Clock::time_point start_;
  bool ended_ = false;
  std::string failure_;
};

tcp::endpoint resolve(asio::io_context& io, const Target& target) {
  try {
    tcp::resolver resolver(io);
    return resolver.resolve(target.host, target.port).begin()->endpoint();
  } catch (const boost::system::system_error& error) {
    throw std::runtime_error("no address for " + target.host + ":" + target.port + ": " +
                             error.code().message());
  }
}

class LoadRun {
 public:
  LoadRun(const Target& target, const std::vector<PlannedRequest>& plan, const RunOptions& options)
      : target_(target),
        plan_(plan),
        options_(options),
        endpoint_(resolve(io_, target)),
        arrival_(io_),
        tick_(io_) {
    outcome_.results.resize(plan.size());
  }

  LoadOutcome run() {
    start_ = Clock::now();
    send_due();
    tick();
    io_.run();
    outcome_.seconds = seconds_between(start_, Clock::now());
    return std::move(outcome_);
  }

 private:
  void send_due() {
    while (next_ < plan_.size()) {
      if (options_.concurrency > 0 && under_way_ >= options_.concurrency) return;
      const auto due = start_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(plan_[next_].start_seconds));
      if (due > Clock::now()) {
        arrival_.expires_at(due);
        arrival_.async_wait([this](const error_code& error) {
          if (!error) send_due();
        });
        return;
      }
      send(next_++);
    }
  }

  void send(std::size_t index) {
    ++under_way_;
    const std::string& body = plan_[index].body;
    std::string request =
        head_of(target_, "POST", "/v1/completions") +
        "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
        "\r\n\r\n" + body;
    std::make_shared<Client>(io_, std::move(request), outcome_.results[index], [this] {
      --under_way_;
      ++done_;
      if (done_ == plan_.size()) tick_.cancel();
      send_due();
    })->start(endpoint_);
  }

  void tick() {
    if (done_ == plan_.size()) return;
    tick_.expires_after(kTick);
    tick_.async_wait([this](const error_code& error) {
      if (error) return;
      if (options_.on_progress && !options_.on_progress(static_cast<std::int64_t>(done_))) {
        io_.stop();
        return;
      }
      tick();
    });
  }

  const Target& target_;
  const std::vector<PlannedRequest>& plan_;
  const RunOptions& options_;
  asio::io_context io_{1};
  tcp::endpoint endpoint_;
  asio::steady_timer arrival_;
  asio::steady_timer tick_;
  Clock::time_point start_;
  std::size_t next_ = 0;
  std::int64_t under_way_ = 0;
  std::size_t done_ = 0;
  LoadOutcome outcome_;
};

}  // namespace

LoadOutcome run_load(const Target& target, const std::vector<PlannedRequest>& plan,
                     const RunOptions& options) {
  return LoadRun(target, plan, options).run();
}

std::string fetch(const Target& target, const std::string& path) {
  asio::io_context io;
  tcp::socket socket(io);
  error_code error;
  socket.connect(resolve(io, target), error);
  if (error) {
    throw std::runtime_error("cannot connect to " + target.host + ":" + target.port + ": " +
                             error.message());
  }
  asio::write(socket, asio::buffer(head_of(target, "GET", path) + "\r\n"), error);
  std::string bytes;
  asio::read(socket, asio::dynamic_buffer(bytes, std::size_t{1} << 20), error);
  Parser parser;
  set_up(parser);
  parser.put(asio::buffer(bytes), error);
  if (!parser.is_done()) throw std::runtime_error("GET " + path + ": no whole answer");
  if (parser.get().result_int() != 200) {
    throw std::runtime_error("GET " + path + ": status " +
                             std::to_string(parser.get().result_int()) + ": " +
                             parser.get().body().substr(0, 300));
  }
  return parser.get().body();
}

}  // namespace moba::load
