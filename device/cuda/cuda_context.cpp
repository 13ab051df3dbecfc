#include "device/cuda/cuda_context.h"

#include "device/context.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/gemm_plans.h"

namespace moba::cuda {
namespace {

// What cuBLASLt's documentation recommends for Hopper.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

// Before the members that live on the device.
DeviceInfo select_device(int index) {
  DeviceInfo info = device_info({DeviceType::kCuda, index});
  MOBA_CUDA_CHECK(cudaSetDevice(index));
  return info;
}

}  // namespace

Context::Context(int index)
    : index_(index),
      info_(select_device(index)),
      workspace_({DeviceType::kCuda, index}, kWorkspaceBytes, "operations' workspace"),
      gemm_plans_(std::make_unique<GemmPlans>()) {
  int bytes = 0;
  MOBA_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  max_shared_bytes_ = static_cast<std::size_t>(bytes);
  MOBA_CUDA_CHECK(cublasLtCreate(&blas_));
}

Context::~Context() {
  static_cast<void>(cudaStreamSynchronize(stream()));
  static_cast<void>(cublasLtDestroy(blas_));
}

void Context::synchronize() { MOBA_CUDA_CHECK(cudaStreamSynchronize(stream())); }

Context* create_context(int index) { return new Context(index); }
void ContextDeleter::operator()(Context* context) const noexcept { delete context; }
void make_current(const Context& context) { MOBA_CUDA_CHECK(cudaSetDevice(context.index())); }
void synchronize(Context& context) { context.synchronize(); }

}  // namespace moba::cuda
