// Memory that operations use while they run.
#pragma once

#include <cstddef>
#include <vector>

#include "device/buffer.h"

namespace moba {

// One piece for each thread of a pool and one for the thread that issues operations. A piece grows
// to the largest size asked for and keeps it. Contents do not outlive the operation. Each piece is
// used by its own thread only.
class Workspace {
 public:
  explicit Workspace(int num_threads) : pieces_(static_cast<std::size_t>(num_threads) + 1) {}

  // For `thread` of a running parallel loop: at least `bytes`, page aligned, uninitialised.
  // Invalidates what the thread was given before.
  void* of_thread(int thread, std::size_t bytes) {
    return piece(pieces_[static_cast<std::size_t>(thread) + 1], bytes);
  }

  // The same for the issuing thread, beside its piece as thread 0 of a loop; the loop's threads may
  // read it.
  void* shared(std::size_t bytes) { return piece(pieces_[0], bytes); }

 private:
  static void* piece(Buffer& buffer, std::size_t bytes) {
    constexpr std::size_t kGranularity = std::size_t{64} << 10;
    if (buffer.size() < bytes) {
      buffer = Buffer();
      buffer = Buffer(Device{}, (bytes + kGranularity - 1) / kGranularity * kGranularity,
                      "operations' workspace");
    }
    return buffer.data();
  }

  std::vector<Buffer> pieces_;
};

}  // namespace moba
