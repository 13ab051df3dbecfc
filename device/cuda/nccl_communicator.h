// Groups of ranks on CUDA devices, over NCCL.
#pragma once

#include <memory>
#include <string>

#include "device/collectives.h"
#include "device/context.h"

namespace moba::cuda {

// Names a group that is to be: made by one rank, brought to the others by other means. Throws Error
// in a build without NCCL.
std::string make_nccl_group_id();

// A rank's end of the group of that name, for the memory and the stream of its context, which
// outlives it. All ranks call it at the same time, each on its thread, and each on a device of its
// own. `host` is the rank's communicator of the same ranks, through which they first meet: if its
// group is aborted meanwhile, this throws. Operations are asynchronous and may be
// captured in graphs. With one rank they go through NCCL all the same.
//
// An aborted NCCL group ends its work on the devices unfinished: results are to be thrown away.
// Throws Error in a build without NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(DeviceContext& context,
                                                     const std::string& group_id,
                                                     Communicator& host);

}  // namespace moba::cuda
