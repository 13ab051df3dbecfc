// Ranks that are threads but speak over loopback sockets.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "device/check.h"
#include "device/socket_group.h"

namespace moba::test {

// A port that nobody listens at on loopback.
inline int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MOBA_CHECK(::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0, "no free port");
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ntohs(address.sin_port);
}

inline std::shared_ptr<SocketGroup> connect_rank(int rank, int num_ranks, int port) {
  SocketGroupOptions options;
  options.rank = rank;
  options.size = num_ranks;
  options.port = port;
  return std::make_shared<SocketGroup>(options);
}

// As on_ranks().
inline void on_socket_ranks(int num_ranks,
                            const std::function<void(int, std::unique_ptr<Communicator>)>& body) {
  const int port = free_port();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(num_ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(rank, make_socket_communicator(connect_rank(rank, num_ranks, port)));
      } catch (const std::exception&) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace moba::test
