// The attention backend of CUDA devices.
#pragma once

#include <cstdint>
#include <memory>

#include "attention/attention_backend.h"

namespace moba {

namespace cuda {

// Which kernels run. For tests and benchmarks; the engine takes the default.
enum class KernelChoice : std::uint8_t {
  kBest,  // what the device and the shapes allow
  kSm80,  // warp-level matrix instructions, also where there are better ones
  kRow,   // a warp for each query row, no matrix instructions
};

// Told of each stage of run() when its launches have been issued; for benchmarks.
class StageObserver {
 public:
  virtual ~StageObserver() = default;
  virtual void issued(const char* stage) = 0;
};

struct CudaAttentionOptions {
  // Most bytes for the partial outputs of MoBA prefill. Longer batches go through them piece by
  // piece.
  std::int64_t max_partial_bytes = std::int64_t{1} << 30;
  KernelChoice kernels = KernelChoice::kBest;
  StageObserver* observer = nullptr;  // borrowed
};

}  // namespace cuda

// See create_attention_backend; `context` is of a CUDA device and `config` is checked. float32,
// bfloat16 or float16, head_dim up to 256. Launches go to the context's stream. A batch's results
// are the same, bit for bit, whenever it is run; those of prefill do not depend on how a prompt is
// cut into batches. Throws Error for a configuration that it cannot run.
std::unique_ptr<AttentionBackend> create_cuda_attention_backend(
    DeviceContext& context, const AttentionConfig& config,
    const cuda::CudaAttentionOptions& options = {});

}  // namespace moba
