// What a checkpoint holds, read without loading it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moba/config.h"
#include "moba/export.h"
#include "moba/status.h"

namespace moba {

struct TensorInfo {
  std::string name;
  std::string dtype;  // "bfloat16", "int8", "float8_e4m3" ...: any that the format knows
  std::vector<std::int64_t> shape;
  std::string file;
};

struct CheckpointInfo {
  std::string architecture;
  std::string dtype;  // what "auto" computes in
  std::int64_t num_parameters = 0;
  std::int64_t weight_bytes = 0;
  std::map<std::string, std::int64_t> bytes_by_dtype;
  std::int64_t vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_layers = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  bool tied_embeddings = false;
  std::string rope;  // "theta 500000, llama3 x8"
  std::int64_t max_position_embeddings = 0;
  int moba_block_size = 0;              // 0: the checkpoint says nothing of MoBA
  std::vector<int> layer_topk;          // [num_layers]; 0: full attention
  std::int64_t kv_bytes_per_token = 0;  // centroids included, in the dtype above
  std::vector<TensorInfo> tensors;      // in order of name
};

// Reads config.json and the headers of the weight files of a checkpoint directory; the attention
// options apply as they would to an engine.
MOBA_API Result<CheckpointInfo> inspect_checkpoint(const std::string& dir,
                                                   const AttentionOptions& attention = {});

// Tokens of context that fit beside the weights into `memory_bytes` (0 if the weights alone do not
// fit).
MOBA_API std::int64_t tokens_that_fit(const CheckpointInfo& info, std::int64_t memory_bytes);

}  // namespace moba
