// What attention needs to know of a batch.
#pragma once

#include <cstdint>
#include <span>

namespace moba {

// A batch of sequences, each with some new query tokens (a prefill chunk, or one token in decode)
// whose keys and values are already in the cache. Borrowed host arrays; they must stay unchanged
// from plan() to the last run() of the batch.
struct AttentionMetadata {
  int num_seqs = 0;
  // [num_seqs + 1], from 0, non-decreasing: the queries of sequence s are rows [cu_seqlens_q[s],
  // cu_seqlens_q[s + 1]). A sequence may have none (padding).
  std::span<const std::int32_t> cu_seqlens_q;
  // [num_seqs]: keys of the sequence, its new tokens included (0 for padding). Its queries stand at
  // the last positions.
  std::span<const std::int32_t> seq_lens;
  // [num_seqs, max_blocks_per_seq]: page ids in logical order; entries past ceil(seq_len /
  // block_size) are not read.
  std::span<const std::int32_t> block_tables;
  int max_blocks_per_seq = 0;
  // [num_layers, num_seqs]: how many MoBA blocks a query attends to, its own included; 0: full
  // attention.
  std::span<const std::int32_t> moba_topk;
};

}  // namespace moba
