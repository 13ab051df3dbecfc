// What a DeviceContext of a CUDA device carries.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "device/buffer.h"
#include "device/cuda/stream.h"
#include "device/device_info.h"

namespace moba::cuda {

class GemmPlans;  // device/cuda/gemm_plans.h

// Not thread-safe. All operations of a rank go through stream(), in the order in which they are
// issued; the device must be the calling thread's current one (DeviceContext::make_current()).
class Context {
 public:
  // Makes the device current. Throws Error as device_info().
  explicit Context(int index);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int index() const { return index_; }
  cudaStream_t stream() const { return stream_.get(); }
  cublasLtHandle_t blas() const { return blas_; }
  GemmPlans& gemm_plans() { return *gemm_plans_; }

  const DeviceInfo& info() const { return info_; }
  int num_multiprocessors() const { return info_.num_multiprocessors; }
  // Compute capability as 80, 89, 90 ...
  int compute_capability() const { return 10 * info_.compute_major + info_.compute_minor; }
  std::size_t l2_bytes() const { return static_cast<std::size_t>(info_.l2_bytes); }
  // The most dynamic shared memory that a block may ask for.
  std::size_t max_shared_bytes() const { return max_shared_bytes_; }

  // Device memory that one operation uses while it runs, fixed in size: cuBLASLt's, and partial
  // results of reductions. Contents do not outlive the operation.
  void* workspace() const { return workspace_.data(); }
  std::size_t workspace_bytes() const { return workspace_.size(); }

  // Waits for everything that was issued. Throws Error for what failed on the way.
  void synchronize();

 private:
  int index_;
  DeviceInfo info_;
  std::size_t max_shared_bytes_ = 0;
  Stream stream_;
  cublasLtHandle_t blas_ = nullptr;
  Buffer workspace_;
  std::unique_ptr<GemmPlans> gemm_plans_;
};

}  // namespace moba::cuda
