// A step's batch as bytes, for ranks in other processes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "engine/batch_builder.h"

namespace moba {

// What a rank needs to run the batch beside the others: all of it but what only the scheduler
// reads. `bytes` is overwritten.
void encode_batch(const Batch& batch, std::vector<std::byte>& bytes);

// A batch with sequences of its own, which hold what ModelRunner reads: sampling state, and the
// prompt tokens whose log probabilities are wanted.
struct ReceivedBatch {
  Batch batch;
  std::vector<std::unique_ptr<Sequence>> sequences;
};
// Throws Error for bytes that encode_batch() did not write.
void decode_batch(std::span<const std::byte> bytes, std::int64_t vocab_size, ReceivedBatch& result);

}  // namespace moba
