#include "device/cuda/peer_communicator.h"
#include "device/cuda/silent_communicator.h"
#include "device/no_cuda/refuse.h"

namespace moba::cuda {

std::int64_t max_peer_message() { return 0; }

std::unique_ptr<Communicator> make_peer_communicator(DeviceContext& /*context*/,
                                                     std::unique_ptr<Communicator> /*others*/,
                                                     Communicator& /*host*/,
                                                     std::int64_t /*max_bytes*/) {
  refuse("peer memory");
}

std::unique_ptr<Communicator> make_silent_communicator(DeviceContext& /*context*/,
                                                       std::unique_ptr<Communicator> /*group*/) {
  refuse("a silent group");
}

}  // namespace moba::cuda
