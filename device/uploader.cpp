#include "device/uploader.h"

#include "device/copy.h"
#include "device/tensor.h"

namespace moba {

Uploader::Uploader(DeviceContext& context, std::size_t piece_bytes)
    : context_(context), pieces_{Piece(context, piece_bytes), Piece(context, piece_bytes)} {}

Uploader::~Uploader() {
  try {
    for (Piece& piece : pieces_) piece.sent.wait();
  } catch (const Error&) {
    // Whoever waits for the device next is told.
  }
}

std::byte* Uploader::next() {
  current_ = 1 - current_;
  pieces_[current_].sent.wait();
  return static_cast<std::byte*>(pieces_[current_].memory.data());
}

void Uploader::send(std::size_t bytes, void* to) {
  MOBA_CHECK(bytes <= piece_bytes(), "upload of ", bytes, " bytes, at most ", piece_bytes());
  // Bytes as tensors: any dtype of the right size would do.
  const std::int64_t words = static_cast<std::int64_t>(bytes / 2);
  MOBA_CHECK(bytes % 2 == 0, "upload of ", bytes, " bytes, not whole elements");
  Piece& piece = pieces_[current_];
  copy_to_device(context_, TensorView(piece.memory.data(), DType::kBFloat16, {words}),
                 TensorView(to, DType::kBFloat16, {words}, context_.device()));
  piece.sent.record();
}

}  // namespace moba
