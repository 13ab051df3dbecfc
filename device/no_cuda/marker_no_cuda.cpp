#include "device/marker.h"

namespace moba {

struct Marker::State {};

Marker::Marker(DeviceContext& context) : context_(context) {}
Marker::~Marker() = default;
void Marker::record() { static_cast<void>(context_); }
void Marker::wait() {}

}  // namespace moba
