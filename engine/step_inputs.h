// A step's arrays where the model reads them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "device/marker.h"
#include "device/tensor.h"
#include "engine/batch_builder.h"
#include "model/causal_lm.h"

namespace moba {

// What a step reads beside the cache. Device memory.
struct StepArrays {
  ForwardBatch forward;
  // [num_tokens] int32, or empty: which sample of the step before a token is, or negative.
  TensorView token_sources;
  TensorView sample_rows;  // [num sampled] int32: rows whose logits choose a token
};

// On the CPU the batch's own arrays; on other devices copies, at addresses that depend on the
// number of tokens only, brought there by one copy a step (two where MoBA blocks are completed).
// Not thread-safe.
class StepInputs {
 public:
  struct Limits {
    std::int64_t max_num_batched_tokens = 0;
    std::int64_t max_num_seqs = 0;
    int block_size = 0;
    int moba_block_size = 0;
  };
  StepInputs(DeviceContext& context, const Limits& limits);

  // Valid until the next call; what reads them must be issued by then.
  StepArrays upload(const Batch& batch);

  // The same of a batch in which every sequence has one token, filled up with padding to `size`
  // sequences of a token each: token 0 at position 0, not stored. `size` is at most max_num_seqs.
  // There are always token_sources, and no sample_rows.
  StepArrays upload_decode(const Batch& batch, std::int64_t size);

  // Bytes on the device.
  static std::int64_t device_bytes(const Limits& limits, Device device);

 private:
  // Pinned memory that one step's copies are made from.
  struct Staging {
    Staging(DeviceContext& context, std::size_t bytes, std::size_t completed_bytes);
    Buffer arrays;
    Buffer completed;
    Marker copied;
  };

  void begin();
  // Room for `count` elements: the host's side to write, the device's to read.
  template <typename T>
  std::span<T> put(DType dtype, std::int64_t count, TensorView& view);
  template <typename T>
  void put(DType dtype, const std::vector<T>& values, TensorView& view);
  void put_completed(const std::vector<std::int32_t>& blocks, ForwardBatch& forward);
  void send();

  DeviceContext& context_;
  Limits limits_;
  std::unique_ptr<std::array<Staging, 2>> staging_;  // used in turn; null on the CPU
  std::size_t current_ = 0;
  Buffer arrays_;
  Buffer completed_;
  // The first so many rows of completed_, the blocks of decode steps, are known to be padding.
  std::int64_t num_padding_rows_ = 0;
  std::size_t used_ = 0;
  std::vector<std::int32_t> row_indices_;
  std::vector<std::int32_t> decode_blocks_;
};

}  // namespace moba
