// A step's arrays where the model reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/buffer.h"
#include "device/context.h"
#include "device/tensor.h"
#include "engine/batch_builder.h"
#include "model/causal_lm.h"

namespace moba {

// On the CPU the batch's own arrays; on other devices copies at fixed addresses, brought there by
// one copy a step. Not thread-safe.
class StepInputs {
 public:
  struct Limits {
    std::int64_t max_num_batched_tokens = 0;
    std::int64_t max_num_seqs = 0;
    int pages_per_moba_block = 0;
  };
  StepInputs(DeviceContext& context, const Limits& limits);

  // The batch's tokens and the rows whose logits are sampled; valid until the next call. The call
  // before must have run to its end on the device.
  ForwardBatch upload(const Batch& batch);
  // [batch.sample_rows.size()] int32: the rows of the last upload that are sampled.
  const TensorView& sample_rows() const { return sample_rows_; }

  // Bytes on the device.
  std::int64_t num_bytes() const { return static_cast<std::int64_t>(device_.size()); }

 private:
  // Room for an array in both buffers; `used_` grows. The device's side comes back.
  template <typename T>
  TensorView put(DType dtype, std::span<const T> values, const Shape& shape);

  DeviceContext& context_;
  Limits limits_;
  Buffer host_;
  Buffer device_;
  std::size_t used_ = 0;
  std::vector<std::int32_t> row_indices_;
  TensorView sample_rows_;
};

}  // namespace moba
