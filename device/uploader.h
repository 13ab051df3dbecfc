// Brings large host data to a device piece by piece, so that preparing one piece (reading a file,
// converting) goes on while the one before travels.
#pragma once

#include <array>
#include <cstddef>

#include "device/buffer.h"
#include "device/context.h"
#include "device/marker.h"

namespace moba {

// Not thread-safe. Must not outlive its context.
class Uploader {
 public:
  // `piece_bytes`: the most that is sent at a time.
  Uploader(DeviceContext& context, std::size_t piece_bytes);
  // Waits for what is on its way.
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  std::size_t piece_bytes() const { return pieces_[0].memory.size(); }

  // Host memory for the next piece; waits until the device has read what was in it.
  std::byte* next();
  // Sends the first `bytes` of what next() gave to device memory.
  void send(std::size_t bytes, void* to);

 private:
  struct Piece {
    Piece(DeviceContext& context, std::size_t bytes)
        : memory(Buffer::host_for(context.device(), bytes, "upload buffer")), sent(context) {}
    Buffer memory;
    Marker sent;
  };

  DeviceContext& context_;
  std::array<Piece, 2> pieces_;
  std::size_t current_ = 0;
};

}  // namespace moba
