// Turns a step's plan into the arrays that model and attention read.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_metadata.h"
#include "engine/scheduler.h"
#include "kvcache/store_kv.h"

namespace moba {

// A row of the step's hidden states whose logits choose a sequence's next token. Rows do not
// decrease; samples that fork share one.
struct SampleRow {
  std::int32_t row = 0;
  Sequence* sequence = nullptr;
  std::int64_t position = 0;  // of the token to be chosen
};

// Rows [row, row + count) of the step's hidden states predict the prompt tokens [first_target,
// first_target + count), whose log probabilities are wanted.
struct PromptLogprobRows {
  std::int32_t row = 0;
  Sequence* sequence = nullptr;
  std::int64_t first_target = 0;
  std::int64_t count = 0;
};

// One step's input. Sequences and their tokens stand in the order of the plan's chunks.
struct Batch {
  std::int32_t num_tokens = 0;
  std::int32_t num_seqs = 0;
  std::vector<std::int32_t> token_ids;  // [num_tokens]
  // [num_tokens], or empty where all token_ids are known: -1, or which of the samples of the batch
  // before this one the token is (token_ids has 0 there).
  std::vector<std::int32_t> token_sources;
  std::vector<std::int32_t> positions;     // [num_tokens]
  std::vector<std::int32_t> cu_seqlens_q;  // [num_seqs + 1]
  std::vector<std::int32_t> seq_lens;      // [num_seqs], the new tokens included
  // [num_seqs, max_blocks_per_seq]; what follows a sequence's pages is some page that exists.
  std::vector<std::int32_t> block_tables;
  std::int32_t max_blocks_per_seq = 0;
  std::vector<std::int32_t> moba_topk;  // [num_layers, num_seqs]
  KvWritePlan kv_write_plan;
  std::vector<PageCopy> page_copies;  // before anything is written
  std::vector<SampleRow> sample_rows;
  std::vector<PromptLogprobRows> prompt_logprob_rows;

  // Borrows the arrays.
  AttentionMetadata attention_metadata() const;
};

struct BatchBuilderConfig {
  int num_layers = 0;
  int block_size = 0;
  int moba_block_size = 0;
  int max_num_batched_tokens = 0;
  int max_num_seqs = 0;
  std::int64_t max_blocks_per_seq = 0;  // the longest block table
};

// Owns the arrays: their memory stays from step to step, and of block tables and attention modes
// only what is new is written.
class BatchBuilder {
 public:
  explicit BatchBuilder(const BatchBuilderConfig& config);

  // The batch is valid until the next call. Throws Error for a chunk with tokens of two attention
  // modes or without pages for them.
  const Batch& build(const StepPlan& plan);

 private:
  // What a row of block_tables and a column of moba_topk hold.
  struct Row {
    std::int64_t sequence_id = -1;
    std::uint32_t block_table_version = 0;
    std::size_t num_blocks = 0;
    bool in_prompt = false;
  };

  void set_shape(const StepPlan& plan);
  void add(const ScheduledChunk& chunk, std::size_t index);
  void add_tokens(const ScheduledChunk& chunk);
  void add_attention(const ScheduledChunk& chunk, std::size_t index);

  BatchBuilderConfig config_;
  Batch batch_;
  std::vector<Row> rows_;  // [num_seqs] of batch_
  bool keeps_topk_ = false;
};

}  // namespace moba
