#include "device/socket_connect.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "device/check.h"

namespace moba {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMagic = 0x6d6f6261;
constexpr std::uint32_t kVersion = 1;
constexpr std::chrono::milliseconds kRetry{100};
constexpr int kLookMs = 100;
// How long a stranger that connects may keep rank 0 from its ranks.
constexpr std::chrono::seconds kHelloLimit{5};

// The first words of a connection.
struct Hello {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::int32_t rank = 0;
  std::int32_t size = 0;
  std::uint32_t port = 0;  // where the rank listens, in the host's byte order
};

// Where a rank listens.
struct Place {
  std::uint32_t address = 0;  // in the network's byte order
  std::uint32_t port = 0;
};

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

bool wait_for(int fd, short events, Clock::time_point end) {
  while (Clock::now() < end) {
    pollfd poll{fd, events, 0};
    if (::poll(&poll, 1, kLookMs) > 0) return true;
  }
  return false;
}

bool send_all(int fd, const void* data, std::size_t size, Clock::time_point end) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      at += n;
      size -= static_cast<std::size_t>(n);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (!wait_for(fd, POLLOUT, end)) {
      return false;
    }
  }
  return true;
}

bool receive_all(int fd, void* data, std::size_t size, Clock::time_point end) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    if (!wait_for(fd, POLLIN, end)) return false;
    const ssize_t n = ::recv(fd, at, size, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (n < 0) continue;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

void set_options(int fd) {
  const int on = 1;
  static_cast<void>(::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
  // Notices hosts that went away between two steps.
  static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)));
}

sockaddr_in resolve(const SocketGroupOptions& options) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(options.address.c_str(), nullptr, &hints, &found);
  MOBA_CHECK(error == 0 && found != nullptr, "master address '", options.address,
             "' is not known: ", ::gai_strerror(error));
  sockaddr_in address{};
  std::memcpy(&address, found->ai_addr, sizeof(address));
  ::freeaddrinfo(found);
  address.sin_port = htons(static_cast<std::uint16_t>(options.port));
  return address;
}

Fd listen_at(sockaddr_in address, int backlog, const std::string& where) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  static_cast<void>(::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
  MOBA_CHECK(fd.is_open() &&
                 ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
                 ::listen(fd.get(), backlog) == 0,
             "cannot listen at ", where, ": ", std::strerror(errno));
  return fd;
}

std::uint32_t port_of(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

// Tries until somebody listens there; closed if the time is up.
Fd connect_to(const sockaddr_in& address, Clock::time_point end) {
  do {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd.is_open() &&
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      set_options(fd.get());
      return fd;
    }
    std::this_thread::sleep_for(kRetry);
  } while (Clock::now() < end);
  return Fd();
}

// The next connection that begins as one of this group; closed if the time is up.
Fd accept_rank(int listener, const SocketGroupOptions& options, Clock::time_point end,
               Hello& hello) {
  while (wait_for(listener, POLLIN, end)) {
    Fd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.is_open()) continue;
    set_options(fd.get());
    const Clock::time_point soon = std::min(end, Clock::now() + kHelloLimit);
    if (!receive_all(fd.get(), &hello, sizeof(hello), soon) || hello.magic != kMagic) continue;
    MOBA_CHECK(hello.version == kVersion && hello.size == options.size && hello.rank > 0 &&
                   hello.rank < hello.size,
               "rank ", hello.rank, " of ", hello.size, " (version ", hello.version,
               ") came to a group of ", options.size, " (version ", kVersion, ")");
    return fd;
  }
  return Fd();
}

std::string missing_ranks(const std::vector<Fd>& fds, int first) {
  std::string text;
  for (std::size_t r = static_cast<std::size_t>(first); r < fds.size(); ++r) {
    if (!fds[r].is_open()) text += concat(text.empty() ? "" : ", ", r);
  }
  return text;
}

// Accepts ranks `first` and up; says where they listen.
void accept_ranks(int listener, const SocketGroupOptions& options, int first, Clock::time_point end,
                  std::vector<Fd>& fds, std::vector<Place>& places) {
  for (int i = first; i < options.size; ++i) {
    Hello hello;
    Fd fd = accept_rank(listener, options, end, hello);
    MOBA_CHECK(fd.is_open(), "ranks ", missing_ranks(fds, first), " of ", options.size,
               " have not come to rank ", options.rank, " within ",
               static_cast<double>(options.connect_limit.count()) / 1000, " s");
    const auto index = static_cast<std::size_t>(hello.rank);
    MOBA_CHECK(hello.rank >= first && !fds[index].is_open(), "two processes call themselves rank ",
               hello.rank);
    sockaddr_in peer{};
    socklen_t size = sizeof(peer);
    ::getpeername(fd.get(), reinterpret_cast<sockaddr*>(&peer), &size);
    places[index] = {peer.sin_addr.s_addr, hello.port};
    fds[index] = std::move(fd);
  }
}

}  // namespace

std::vector<int> connect_ranks(const SocketGroupOptions& options) {
  std::vector<int> result(static_cast<std::size_t>(options.size), -1);
  if (options.size == 1) return result;
  MOBA_CHECK(options.port > 0 && options.port < 65536, "master port is ", options.port,
             ", not in 1 .. 65535");
  const Clock::time_point end = Clock::now() + options.connect_limit;
  const std::string where = concat(options.address, ":", options.port);
  const sockaddr_in master = resolve(options);
  std::vector<Fd> fds(result.size());
  std::vector<Place> places(result.size());

  if (options.rank == 0) {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = master.sin_port;
    // On loopback nobody else need reach it.
    any.sin_addr.s_addr =
        (ntohl(master.sin_addr.s_addr) >> 24) == 127 ? master.sin_addr.s_addr : htonl(INADDR_ANY);
    const Fd listener = listen_at(any, options.size, where);
    accept_ranks(listener.get(), options, 1, end, fds, places);
    for (std::size_t r = 1; r < fds.size(); ++r) {
      MOBA_CHECK(send_all(fds[r].get(), places.data(), places.size() * sizeof(Place), end), "rank ",
                 r, " was lost while the ranks connected");
    }
  } else {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_ANY);
    const Fd listener = listen_at(any, options.size, "a free port");
    const Hello hello{kMagic, kVersion, options.rank, options.size, port_of(listener.get())};
    fds[0] = connect_to(master, end);
    MOBA_CHECK(fds[0].is_open() && send_all(fds[0].get(), &hello, sizeof(hello), end),
               "rank 0 does not answer at ", where);
    MOBA_CHECK(receive_all(fds[0].get(), places.data(), places.size() * sizeof(Place), end),
               "rank 0 at ", where, " was lost while the ranks connected");
    for (int r = 1; r < options.rank; ++r) {
      const auto index = static_cast<std::size_t>(r);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = places[index].address;
      address.sin_port = htons(static_cast<std::uint16_t>(places[index].port));
      fds[index] = connect_to(address, end);
      MOBA_CHECK(fds[index].is_open() && send_all(fds[index].get(), &hello, sizeof(hello), end),
                 "rank ", r, " does not answer");
    }
    accept_ranks(listener.get(), options, options.rank + 1, end, fds, places);
  }
  for (std::size_t r = 0; r < fds.size(); ++r) result[r] = fds[r].release();
  return result;
}

}  // namespace moba
