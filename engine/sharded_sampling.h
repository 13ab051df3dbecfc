// Sampling from rows of logits of which every rank has a piece.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "device/collectives.h"
#include "device/thread_pool.h"
#include "engine/batch_builder.h"
#include "engine/sampler.h"
#include "model/shard_plan.h"

namespace moba {

// Every rank of the group has one and calls it with the same rows; rank 0 gets the results. A rank
// adjusts its own piece of a row (bias, penalties, forbidden tokens). Then
//   greedy rows:               the ranks exchange their piece's largest logit and its id;
//   rows with top-k (up to kMaxExchanged): the top_k largest of each piece, which hold those of the
//                              row;
//   other rows that are drawn: the pieces themselves, as top-p, min-p and the plain draw weigh all
//                              tokens of the vocabulary.
// Whatever way a row takes, its token is the one that Sampler gives for the same logits on one
// rank, bit for bit: the last two end in the same code. Log probabilities may differ from one
// rank's in the last bit of their float, as the sum over the vocabulary is taken piece by piece.
//
// Not thread-safe.
class ShardedSampler {
 public:
  // The largest top_k for which candidates travel instead of rows.
  static constexpr int kMaxExchanged = 1024;

  // What a row gave, on rank 0: a token, or the error for its sequence if that is not empty. Called
  // for different rows from several threads at once.
  using TakeSample = std::function<void(std::size_t row, SampledToken token, std::string error)>;
  using TakeLogprob = std::function<void(std::size_t row, TokenLogprob logprob, std::string error)>;

  // `group` is for host memory; it and the pool outlive the sampler.
  ShardedSampler(Communicator& group, ThreadPool& pool, const ShardPlan& shard,
                 std::int64_t vocab_size);

  // logits: [rows.size(), shard.vocab.size()], this rank's piece of each row, changed in place.
  void sample(std::span<const SampleRow> rows, float* logits, const TakeSample& take);

  // Log probabilities of targets[i] in row i, with the num_top most probable tokens; logits
  // likewise, not changed. Every rank gets them, and the same errors.
  void prompt_logprobs(const float* logits, std::span<const std::int32_t> targets, int num_top,
                       const TakeLogprob& take);

 private:
  // One of the largest of a piece.
  struct Entry {
    std::int32_t id;  // -1: the piece has no more
    float logit;
    float original;  // before it was adjusted
  };
  // Of a piece: what the ranks exchange, before the entries.
  struct Header {
    RowMax adjusted;
    RowMax original;
    double original_exp_sum;  // relative to original.value
    float target;             // of a prompt token, if it lies in this piece
  };
  // What a thread keeps from row to row.
  struct Scratch {
    Sampler sampler;
    std::vector<std::pair<std::int32_t, float>> top;
    std::vector<Entry> entries;
    std::vector<float> row;
  };

  // Makes room for `rows` messages of so many entries; all_gather them.
  void begin_messages(std::size_t rows, std::size_t num_candidates, std::size_t num_top);
  std::byte* message(std::size_t row) { return mine_.data() + row * message_bytes_; }
  const std::byte* message_of(int rank, std::size_t row) const;
  void exchange_messages();
  void describe_original(std::span<const float> logits, int num_top, Scratch& scratch,
                         std::byte* to) const;
  void describe_piece(std::span<float> logits, const SamplingState& state, Scratch& scratch,
                      std::byte* to) const;
  // On rank 0, from the messages about a row.
  double merge_original(std::size_t row, const char* what) const;
  void merge_top(std::size_t row, int num_top, double normaliser, Scratch& scratch,
                 TokenLogprob& logprob) const;
  SampledToken merge_sample(std::size_t row, const SampleRow& sample, Scratch& scratch) const;
  void sample_whole_rows(std::span<const SampleRow> rows, std::span<const std::size_t> which,
                         const float* logits, const TakeSample& take);

  Communicator& group_;
  ThreadPool& pool_;
  ShardPlan shard_;
  std::int64_t vocab_size_;
  std::vector<Scratch> scratch_;  // one per thread

  std::size_t num_candidates_ = 0;  // of a message
  std::size_t num_top_ = 0;
  std::size_t message_bytes_ = 0;
  std::vector<std::byte> mine_;         // [rows, message_bytes_]
  std::vector<std::byte> all_;          // [ranks, rows, message_bytes_]
  std::vector<float> my_pieces_;        // [rows, vocab_stride]
  std::vector<float> all_pieces_;       // [ranks, rows, vocab_stride]
  std::vector<std::size_t> exchanged_;  // rows that take each way
  std::vector<std::size_t> whole_;
};

}  // namespace moba
