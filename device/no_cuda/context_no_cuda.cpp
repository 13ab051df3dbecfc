#include "device/context.h"
#include "device/no_cuda/refuse.h"

namespace moba::cuda {

Context* create_context(int index) { refuse(device_name({DeviceType::kCuda, index}).c_str()); }
void ContextDeleter::operator()(Context* /*context*/) const noexcept {}
void make_current(const Context& /*context*/) {}
void synchronize(Context& /*context*/) {}

}  // namespace moba::cuda
