#include "device/check.h"
#include "device/cuda/nccl_communicator.h"

namespace moba::cuda {
namespace {

[[noreturn]] void refuse() { throw Error("more than one GPU: this build has no NCCL"); }

}  // namespace

std::string make_nccl_group_id() { refuse(); }

std::unique_ptr<Communicator> make_nccl_communicator(DeviceContext& /*context*/,
                                                     const std::string& /*group_id*/,
                                                     Communicator& /*host*/) {
  refuse();
}

}  // namespace moba::cuda
