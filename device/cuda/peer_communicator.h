// Groups of GPUs of one process that exchange small messages over each other's memory.
#pragma once

#include <cstdint>
#include <memory>

#include "device/collectives.h"
#include "device/context.h"

namespace moba::cuda {

// The most bytes of a message that takes that way.
std::int64_t max_peer_message();

// A rank's end of a group of GPUs: all-reduces and all-gathers of at most `max_bytes` of a rank's
// go over peer memory in one kernel, everything else through `others`, the same ranks' group on the
// same GPUs. Sums are taken in the order of ranks. All ranks call it at the same time, each on its
// thread of this one process; `host` is their group for host memory. Operations are asynchronous
// and may be captured in graphs. Gives `others` back where there are no peers, or more than 8
// ranks, or GPUs that cannot reach each other's memory.
//
// An abort ends waits on the devices, and aborts `others`: results are to be thrown away.
std::unique_ptr<Communicator> make_peer_communicator(DeviceContext& context,
                                                     std::unique_ptr<Communicator> others,
                                                     Communicator& host, std::int64_t max_bytes);

}  // namespace moba::cuda
