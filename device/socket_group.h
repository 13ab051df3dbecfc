// Ranks in several processes, connected by TCP.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "device/collectives.h"

namespace moba {

struct SocketGroupOptions {
  int rank = 0;
  int size = 1;
  // Where rank 0 listens and the others find it: an IPv4 address or a host's name.
  std::string address = "127.0.0.1";
  int port = 0;
  // How long to wait for all ranks to be there.
  std::chrono::milliseconds connect_limit{std::chrono::minutes(5)};
};

// One connection to every other rank. All processes run the same version of the program, on
// machines of one byte order, in a network that they trust: nothing is encrypted.
//
// One thread uses it; the functions of GroupControl may be called by any. A peer that closes its
// connection, says that it failed, or sends nothing for the time limit while it is waited for ends
// the group: GroupLost, in one line that names it, here and from then on.
class SocketGroup final : public GroupControl {
 public:
  struct Send {
    int rank;
    std::span<const std::byte> data;
  };
  struct Receive {
    int rank;
    std::span<std::byte> data;  // exactly what is sent
  };

  // Connects to all other ranks; returns when they are connected among each other. Throws Error
  // naming the address or the ranks that are missing.
  explicit SocketGroup(const SocketGroupOptions& options);
  ~SocketGroup() override;
  SocketGroup(const SocketGroup&) = delete;
  SocketGroup& operator=(const SocketGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Zero: none.
  void set_time_limit(std::chrono::milliseconds limit) { time_limit_ = limit; }

  // Sends and receives at the same time, at most one of each for a rank. All ranks call it in the
  // same order; `what` names the operation in errors.
  void exchange(std::span<const Send> sends, std::span<const Receive> receives, const char* what);

  // A message of any length to all other ranks, who wait for it however long it takes to come.
  void send_message(std::span<const std::byte> data);
  std::vector<std::byte> receive_message(int from);

  // Tells the other ranks before it closes the connections.
  void abort(const std::string& why) override;
  std::string why_aborted() const override;
  std::uint64_t num_operations(int rank) const override;

 private:
  struct Peer;
  void drain();
  [[noreturn]] void fail(const std::string& why);
  void check_whole() const;

  int rank_;
  int size_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by rank; null for this one
  std::chrono::milliseconds time_limit_{0};
  std::atomic<std::uint64_t> num_operations_{0};
  std::atomic<bool> aborted_{false};
  mutable std::mutex mutex_;
  std::string why_;
};

// A communicator for tensors in host memory. Sums are taken in the order of ranks.
std::unique_ptr<Communicator> make_socket_communicator(std::shared_ptr<SocketGroup> group);

}  // namespace moba
