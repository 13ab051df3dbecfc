#include "device/cuda/cuda_context.h"
#include "device/cuda/stream.h"
#include "device/marker.h"

namespace moba {

struct Marker::State {
  cuda::Event event;
};

Marker::Marker(DeviceContext& context) : context_(context) {
  if (context.cuda() != nullptr) state_ = std::make_unique<State>();
}

Marker::~Marker() = default;

void Marker::record() {
  if (state_ != nullptr) state_->event.record(context_.cuda()->stream());
}

void Marker::wait() {
  if (state_ != nullptr) state_->event.synchronize();
}

}  // namespace moba
