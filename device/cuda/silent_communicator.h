// A group of GPUs that says nothing: what work takes without communication.
#pragma once

#include <memory>

#include "device/collectives.h"
#include "device/context.h"

namespace moba::cuda {

// Stands in for `group`, whose operations it leaves out: sums are this rank's own numbers, and what
// is gathered are copies of them. Results are worthless, times are those of everything else.
std::unique_ptr<Communicator> make_silent_communicator(DeviceContext& context,
                                                       std::unique_ptr<Communicator> group);

}  // namespace moba::cuda
