// Which part of a model a rank of a tensor parallel group holds. Pure.
#pragma once

#include <cstdint>

#include "model/model_config.h"

namespace moba {

// [begin, end) of heads, rows or columns.
struct ShardRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const ShardRange&) const = default;
};

// Query heads are split evenly and in order; a rank has the KV heads that its query heads read, so
// that gate, top-k and attention need nobody else. Where there are more ranks than KV heads,
// several ranks hold the same one. The MLP's intermediate size and the vocabulary are cut into
// pieces of the size that the division rounds up to; the last piece may be shorter.
struct ShardPlan {
  int rank = 0;
  int num_ranks = 1;
  ShardRange q_heads;
  ShardRange kv_heads;
  ShardRange intermediate;
  ShardRange vocab;
  std::int64_t vocab_stride = 0;  // the largest piece of the vocabulary: rank r's begins at r times
                                  // that

  // Rank 0 adds what must be added once: residuals, and the biases of row-parallel products.
  bool adds_once() const { return rank == 0; }
  // The model as this rank computes it: its heads and its intermediate size, all else as it is.
  ModelConfig local(const ModelConfig& config) const;
};

// Throws Error, in one line, if the model cannot be split that way: num_ranks must divide the query
// heads; it must divide the KV heads or be a multiple of them; and no rank may be left without a
// part of the vocabulary or the intermediate size.
ShardPlan make_shard_plan(const ModelConfig& config, int rank, int num_ranks);

}  // namespace moba
