// What the sampling kernels take and give. Plain structs; pointers are device memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moba::cuda {

// Most log probabilities of a row (sampling_state.cpp).
inline constexpr int kMaxTopLogprobs = 100;
// Logits of a row that a block looks at when it finds the maximum.
inline constexpr int kStatsChunk = 4096;

// One row of logits. Edits are ranges of SamplingArgs::edits, each with distinct tokens.
struct SamplingRow {
  double uniform;  // the row's random number in [0, 1)
  float scale;     // 1 / temperature; 0: the most probable token
  float top_p;     // >= 1: all
  float min_p;     // <= 0: all
  int top_k;       // 0: all
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int num_logprobs;   // most probable tokens beside the chosen one; -1: no log probabilities at all
  int target;         // score this token instead of sampling; -1: sample
  int first_bias;     // edits [first_bias, first_penalty) add value to a logit,
  int first_penalty;  // [first_penalty, first_forbidden) have the penalties: value is the count of
  int first_forbidden;  // the token in the output; [first_forbidden, end_edits) forbid it
  int end_edits;
};

struct LogitEdit {
  std::int32_t token;
  float value;
};

enum class SamplingError : std::int32_t {
  kNone = 0,
  kLogprobsNotFinite = 1,
  kLogitsNotFinite = 2,
  kNothingAllowed = 3,
};

struct SamplingResult {
  std::int32_t token;
  SamplingError error;
  float logprob;
  std::int32_t num_top;
};

struct TopLogprob {
  std::int32_t token;
  float logprob;
};

// Of a chunk of a row. 16 bytes, as they travel between ranks.
struct alignas(16) ChunkStats {
  float max;           // of the numbers
  std::int32_t index;  // the smallest that has it
  std::int32_t has_nan;
};

struct SamplingArgs {
  float* logits;  // [num_rows, vocab_size]; edits change it
  int num_rows;
  int vocab_size;
  const SamplingRow* rows;  // [num_rows]; null: all are greedy and plain
  const LogitEdit* edits;
  float* originals;         // [num edits] scratch: logits before the edit
  ChunkStats* stats;        // [num_rows, num_chunks] scratch
  int num_chunks;           // at least ceil(vocab_size / kStatsChunk)
  double* normalisers;      // [num_rows] scratch
  SamplingResult* results;  // [num_rows]
  TopLogprob* top;          // [num_rows, kMaxTopLogprobs]
  bool any_edits;
  bool any_logprobs;
  bool any_sampled;  // rows with target < 0
};

// Issues the launches for all rows. Choices are those of engine/sampler.h: sums are taken in fixed
// point, so a token changes only where a draw falls within 1e-10 of a boundary.
void launch_sampling(const SamplingArgs& args, cudaStream_t stream);

// args.stats = what the chunks of all rows hold: of a piece of the vocabulary, whose tokens count
// from 0.
void launch_stats(const SamplingArgs& args, cudaStream_t stream);

// The token of each row's largest logit, from the stats of all pieces of it: those of piece p at
// all + p * num_rows * num_chunks, whose token 0 is token p * piece_stride of the vocabulary.
void launch_merge(const ChunkStats* all, int num_pieces, int num_rows, int num_chunks,
                  int piece_stride, SamplingResult* results, cudaStream_t stream);

// token_ids[i] = results[sources[i]].token where sources[i] >= 0, for i < count.
void launch_resolve(const std::int32_t* sources, const SamplingResult* results,
                    std::int32_t* token_ids, int count, cudaStream_t stream);

}  // namespace moba::cuda
