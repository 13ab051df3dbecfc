#include "server/http/server.h"

#include <sys/resource.h>

#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <exception>
#include <future>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>

#include "server/http/connection.h"

namespace moba::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kSweep = std::chrono::milliseconds(250);
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);
constexpr int kBacklog = 4096;

// Connections are descriptors: as many as the system lets this process have.
void raise_descriptor_limit() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

std::uint64_t random_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

class AsioThread : public IoThread {
 public:
  explicit AsioThread(asio::io_context& io) : io_(io) {}
  void post(std::function<void()> function) override { asio::post(io_, std::move(function)); }

 private:
  asio::io_context& io_;
};

}  // namespace

class Server::Impl {
 public:
  explicit Impl(ServerOptions options)
      : options_(std::move(options)),
        log_(options_.access_log),
        io_(1),
        io_thread_(io_),
        service_(options_, io_thread_),
        host_{options_, service_, log_},
        acceptor_(io_),
        sweep_timer_(io_),
        accept_timer_(io_) {
    raise_descriptor_limit();
    host_.id_seed = random_seed();
    listen();
    accept();
    sweep();
    thread_ = std::thread([this] { run(); });
  }

  ~Impl() { stop(); }

  std::uint16_t port() const { return port_; }

  void serve(ServedModel model) {
    call([this, &model] { service_.set_model(std::move(model)); });
  }

  void drain() {
    call([this] {
      host_.draining = true;
      service_.drain();
      close_acceptor();
      for (const auto& connection : connections_) connection->drain();
    });
  }

  bool wait_drained(std::chrono::duration<double> timeout) {
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout);
    while (true) {
      std::int64_t left = 0;
      call([this, &left] { left = host_.num_requests; });
      if (left == 0) return true;
      if (Clock::now() >= end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  void stop() {
    if (!thread_.joinable()) return;
    call([this] {
      close_acceptor();
      sweep_timer_.cancel();
      accept_timer_.cancel();
      for (const auto& connection : connections_) connection->close();
      connections_.clear();
    });
    io_.stop();
    thread_.join();
    service_.stop_workers();
  }

 private:
  // Runs on the I/O thread; returns when it has.
  template <typename F>
  void call(F&& function) {
    std::promise<void> done;
    asio::post(io_, [&] {
      function();
      done.set_value();
    });
    done.get_future().wait();
  }

  void listen() {
    const std::string address = options_.host + ":" + std::to_string(options_.port);
    try {
      tcp::resolver resolver(io_);
      const auto results =
          resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive);
      const tcp::endpoint endpoint = results.begin()->endpoint();
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(asio::socket_base::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen(kBacklog);
      port_ = acceptor_.local_endpoint().port();
    } catch (const boost::system::system_error& error) {
      throw std::runtime_error("cannot listen on " + address + ": " + error.code().message());
    }
  }

  void close_acceptor() {
    error_code ignored;
    acceptor_.close(ignored);
  }

  void accept() {
    acceptor_.async_accept([this](const error_code& error, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (error) {
        // No descriptors left, most likely; some will be.
        accept_timer_.expires_after(kAcceptRetry);
        accept_timer_.async_wait([this](const error_code& cancelled) {
          if (!cancelled) accept();
        });
        return;
      }
      take(std::move(socket));
      accept();
    });
  }

  void take(tcp::socket socket) {
    if (static_cast<int>(connections_.size()) >= options_.max_connections) remove_closed();
    if (static_cast<int>(connections_.size()) >= options_.max_connections) {
      constexpr std::string_view kFull =
          "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
          "Connection: close\r\n\r\n";
      error_code ignored;
      socket.non_blocking(true, ignored);
      socket.write_some(asio::const_buffer(kFull.data(), kFull.size()), ignored);
      return;
    }
    const auto connection = std::make_shared<Connection>(std::move(socket), host_);
    connections_.insert(connection);
    host_.num_connections = static_cast<std::int64_t>(connections_.size());
    connection->start();
  }

  void remove_closed() {
    for (auto it = connections_.begin(); it != connections_.end();) {
      it = (*it)->open() ? std::next(it) : connections_.erase(it);
    }
    host_.num_connections = static_cast<std::int64_t>(connections_.size());
  }

  void sweep() {
    sweep_timer_.expires_after(kSweep);
    sweep_timer_.async_wait([this](const error_code& cancelled) {
      if (cancelled) return;
      remove_closed();
      const Clock::time_point now = Clock::now();
      for (const auto& connection : connections_) connection->check_deadlines(now);
      sweep();
    });
  }

  void run() {
    while (true) {
      try {
        io_.run();
        return;
      } catch (const std::exception& error) {
        spdlog::error("serve: {}", error.what());
      }
    }
  }

  const ServerOptions options_;
  AccessLog log_;
  asio::io_context io_;
  AsioThread io_thread_;
  Service service_;
  ConnectionHost host_;
  tcp::acceptor acceptor_;
  asio::steady_timer sweep_timer_;
  asio::steady_timer accept_timer_;
  std::unordered_set<std::shared_ptr<Connection>> connections_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Server::~Server() = default;
std::uint16_t Server::port() const { return impl_->port(); }
void Server::serve(ServedModel model) { impl_->serve(std::move(model)); }
void Server::drain() { impl_->drain(); }
bool Server::wait_drained(std::chrono::duration<double> timeout) {
  return impl_->wait_drained(timeout);
}
void Server::stop() { impl_->stop(); }

}  // namespace moba::server
