#include "device/socket_group.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "device/check.h"
#include "device/socket_connect.h"

namespace moba {
namespace {

using Clock = std::chrono::steady_clock;

// How often one who waits looks whether the group has been aborted.
constexpr int kLookMs = 100;
// How long one who leaves a lost group waits for the others to hear of it.
constexpr std::chrono::seconds kDrainTime{1};
// A longer message is a mistake or none of ours.
constexpr std::uint64_t kMaxMessage = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxReason = 4096;

enum class Kind : std::uint32_t { kData = 0x6d6f6461, kFailure = 0x6d6f6665, kEnd = 0x6d6f656e };

// Before every message.
struct Header {
  Kind kind = Kind::kData;
  std::uint32_t sequence = 0;  // of the connection's messages in this direction
  std::uint64_t bytes = 0;
};

}  // namespace

struct SocketGroup::Peer {
  int fd = -1;
  // What is on its way out and in, header first.
  Header out_header;
  std::span<const std::byte> out;
  std::size_t out_done = 0;
  bool sending = false;
  std::uint32_t num_sent = 0;
  std::atomic<bool> mid_message{false};  // some bytes of it have gone, some have not
  Header in_header;
  std::span<std::byte> in;
  std::size_t in_done = 0;
  bool receiving = false;
  std::uint32_t num_received = 0;

  ~Peer() {
    if (fd >= 0) ::close(fd);
  }
};

namespace {

// The bytes of a header, then those of a body, as one run.
template <typename Byte>
std::span<Byte> rest_of(Byte* header, std::span<Byte> body, std::size_t done) {
  if (done < sizeof(Header)) return {header + done, sizeof(Header) - done};
  return body.subspan(done - sizeof(Header));
}

}  // namespace

SocketGroup::SocketGroup(const SocketGroupOptions& options)
    : rank_(options.rank), size_(options.size) {
  MOBA_CHECK(size_ >= 1 && rank_ >= 0 && rank_ < size_, "rank ", rank_, " of ", size_,
             " processes");
  std::vector<int> fds = connect_ranks(options);
  for (const int fd : fds) {
    peers_.push_back(fd < 0 ? nullptr : std::make_unique<Peer>());
    if (fd >= 0) peers_.back()->fd = fd;
  }
}

SocketGroup::~SocketGroup() {
  if (aborted_.load(std::memory_order_acquire)) {
    drain();
    return;
  }
  const Header end{Kind::kEnd, 0, 0};
  for (const auto& peer : peers_) {
    if (peer != nullptr) {
      static_cast<void>(::send(peer->fd, &end, sizeof(end), MSG_NOSIGNAL | MSG_DONTWAIT));
    }
  }
}

// A connection that is closed with something unread in it is reset, and what the other side has not
// read yet, such as the reason, may be gone: reads until the others have closed theirs too.
void SocketGroup::drain() {
  const Clock::time_point end = Clock::now() + kDrainTime;
  std::array<std::byte, 4096> rest;
  for (const auto& peer : peers_) {
    if (peer == nullptr) continue;
    while (Clock::now() < end) {
      pollfd poll{peer->fd, POLLIN, 0};
      if (::poll(&poll, 1, kLookMs) <= 0) continue;
      if (::recv(peer->fd, rest.data(), rest.size(), MSG_DONTWAIT) <= 0) break;
    }
  }
}

void SocketGroup::abort(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (!why_.empty()) return;
  why_ = why;
  aborted_.store(true, std::memory_order_release);
  std::array<std::byte, sizeof(Header) + kMaxReason> message;
  const std::size_t length = std::min<std::size_t>(why.size(), kMaxReason);
  const Header header{Kind::kFailure, 0, length};
  std::memcpy(message.data(), &header, sizeof(header));
  std::memcpy(message.data() + sizeof(header), why.data(), length);
  for (const auto& peer : peers_) {
    if (peer == nullptr) continue;
    // In the middle of another message it would not be understood; then the end of the connection
    // says it.
    if (!peer->mid_message.load(std::memory_order_acquire)) {
      static_cast<void>(
          ::send(peer->fd, message.data(), sizeof(header) + length, MSG_NOSIGNAL | MSG_DONTWAIT));
    }
    static_cast<void>(::shutdown(peer->fd, SHUT_WR));
  }
}

std::string SocketGroup::why_aborted() const {
  const std::lock_guard lock(mutex_);
  return why_;
}

std::uint64_t SocketGroup::num_operations(int rank) const {
  return rank == rank_ ? num_operations_.load(std::memory_order_relaxed) : 0;
}

void SocketGroup::fail(const std::string& why) {
  abort(why);
  throw GroupLost(why_aborted());
}

void SocketGroup::check_whole() const {
  if (aborted_.load(std::memory_order_acquire)) throw GroupLost(why_aborted());
}

void SocketGroup::exchange(std::span<const Send> sends, std::span<const Receive> receives,
                           const char* what) {
  check_whole();
  num_operations_.fetch_add(1, std::memory_order_relaxed);
  int open = 0;  // directions that are not done
  for (const Send& send : sends) {
    Peer& peer = *peers_[static_cast<std::size_t>(send.rank)];
    peer.out_header = {Kind::kData, ++peer.num_sent, send.data.size()};
    peer.out = send.data;
    peer.out_done = 0;
    peer.sending = true;
    ++open;
  }
  for (const Receive& receive : receives) {
    Peer& peer = *peers_[static_cast<std::size_t>(receive.rank)];
    peer.in = receive.data;
    peer.in_done = 0;
    peer.receiving = true;
    ++peer.num_received;
    ++open;
  }

  const auto lost = [&](std::size_t rank, const char* how) {
    fail(concat("rank ", rank, " was lost: ", how, " (", what, ")"));
  };
  const auto receive_some = [&](std::size_t rank, Peer& peer) {
    const std::span<std::byte> rest =
        rest_of(reinterpret_cast<std::byte*>(&peer.in_header), peer.in, peer.in_done);
    const ssize_t n = ::recv(peer.fd, rest.data(), rest.size(), MSG_DONTWAIT);
    if (n == 0) lost(rank, "it closed its connection");
    if (n < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return false;
      lost(rank, std::strerror(errno));
    }
    peer.in_done += static_cast<std::size_t>(n);
    if (peer.in_done == sizeof(Header)) {
      const Header& header = peer.in_header;
      if (header.kind == Kind::kEnd) lost(rank, "it has ended");
      if (header.kind == Kind::kFailure && header.bytes <= kMaxReason) {
        std::string why(header.bytes, '?');
        std::size_t done = 0;
        while (done < why.size()) {
          const ssize_t m = ::recv(peer.fd, why.data() + done, why.size() - done, 0);
          if (m <= 0) break;
          done += static_cast<std::size_t>(m);
        }
        fail(why);
      }
      if (header.kind != Kind::kData || header.sequence != peer.num_received ||
          header.bytes != peer.in.size()) {
        fail(concat("ranks do not agree: rank ", rank, " sends ", header.bytes,
                    " bytes as message ", header.sequence, ", rank ", rank_, " waits for ",
                    peer.in.size(), " as message ", peer.num_received, " (", what, ")"));
      }
    }
    if (peer.in_done == sizeof(Header) + peer.in.size()) {
      peer.receiving = false;
      --open;
    }
    return true;
  };
  const auto send_some = [&](std::size_t rank, Peer& peer) {
    const std::span<const std::byte> rest =
        rest_of(reinterpret_cast<const std::byte*>(&peer.out_header), peer.out, peer.out_done);
    const ssize_t n = ::send(peer.fd, rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return false;
      // What it had to say before it went stands in what it sent.
      if (peer.receiving) return false;
      lost(rank, std::strerror(errno));
    }
    peer.out_done += static_cast<std::size_t>(n);
    const bool all = peer.out_done == sizeof(Header) + peer.out.size();
    peer.mid_message.store(!all, std::memory_order_release);
    if (all) {
      peer.sending = false;
      --open;
    }
    return true;
  };

  Clock::time_point moved = Clock::now();
  std::vector<pollfd> polls;
  std::vector<std::size_t> ranks;
  while (open > 0) {
    bool any = false;
    for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
      if (peers_[rank] == nullptr) continue;
      Peer& peer = *peers_[rank];
      while (peer.sending && send_some(rank, peer)) any = true;
      while (peer.receiving && receive_some(rank, peer)) any = true;
    }
    if (any) moved = Clock::now();
    if (open == 0) break;
    check_whole();
    polls.clear();
    ranks.clear();
    for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
      if (peers_[rank] == nullptr) continue;
      const Peer& peer = *peers_[rank];
      const int events = (peer.sending ? POLLOUT : 0) | (peer.receiving ? POLLIN : 0);
      if (events == 0) continue;
      polls.push_back({peer.fd, static_cast<short>(events), 0});
      ranks.push_back(rank);
    }
    if (::poll(polls.data(), polls.size(), kLookMs) != 0) continue;
    check_whole();
    if (time_limit_.count() > 0 && Clock::now() - moved >= time_limit_) {
      // The one whose message is missing; the others have sent theirs.
      std::size_t missing = ranks.front();
      for (const std::size_t rank : ranks) {
        if (peers_[rank]->receiving) {
          missing = rank;
          break;
        }
      }
      fail(concat("rank ", missing, " stalled: nothing has come from it for ",
                  static_cast<double>(time_limit_.count()) / 1000, " s (", what, ")"));
    }
  }
}

void SocketGroup::send_message(std::span<const std::byte> data) {
  const std::uint64_t length = data.size();
  std::vector<Send> sends;
  for (int to = 0; to < size_; ++to) {
    if (to != rank_) sends.push_back({to, std::as_bytes(std::span(&length, 1))});
  }
  exchange(sends, {}, "message");
  for (Send& send : sends) send.data = data;
  exchange(sends, {}, "message");
}

std::vector<std::byte> SocketGroup::receive_message(int from) {
  const std::chrono::milliseconds limit = std::exchange(time_limit_, std::chrono::milliseconds(0));
  std::uint64_t length = 0;
  const std::array<Receive, 1> first{{{from, std::as_writable_bytes(std::span(&length, 1))}}};
  exchange({}, first, "message");
  time_limit_ = limit;
  if (length > kMaxMessage) fail(concat("rank ", from, " sends a message of ", length, " bytes"));
  std::vector<std::byte> data(length);
  const std::array<Receive, 1> second{{{from, data}}};
  exchange({}, second, "message");
  return data;
}

}  // namespace moba
