#include "model/shard_plan.h"

#include <algorithm>

#include "device/check.h"

namespace moba {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

ShardRange cut(const char* what, std::int64_t size, int rank, int num_ranks) {
  const std::int64_t piece = ceil_div(size, num_ranks);
  MOBA_CHECK(piece * (num_ranks - 1) < size, "tensor_parallel_size ", num_ranks, ": ", what, " ",
             size, " in pieces of ", piece, " leaves ranks without any");
  return {piece * rank, std::min(size, piece * (rank + 1))};
}

}  // namespace

ModelConfig ShardPlan::local(const ModelConfig& config) const {
  ModelConfig result = config;
  result.num_q_heads = static_cast<int>(q_heads.size());
  result.num_kv_heads = static_cast<int>(kv_heads.size());
  result.intermediate_size = static_cast<int>(intermediate.size());
  return result;
}

ShardPlan make_shard_plan(const ModelConfig& config, int rank, int num_ranks) {
  MOBA_CHECK(num_ranks >= 1 && rank >= 0 && rank < num_ranks, "rank ", rank, " of ", num_ranks);
  MOBA_CHECK(config.num_q_heads % num_ranks == 0, "tensor_parallel_size ", num_ranks,
             " does not divide the model's ", config.num_q_heads, " query heads");
  MOBA_CHECK(config.num_kv_heads % num_ranks == 0 || num_ranks % config.num_kv_heads == 0,
             "tensor_parallel_size ", num_ranks, " neither divides the model's ",
             config.num_kv_heads, " KV heads nor is a multiple of them");
  ShardPlan plan;
  plan.rank = rank;
  plan.num_ranks = num_ranks;
  const std::int64_t q_heads = config.num_q_heads / num_ranks;
  const std::int64_t group = config.num_q_heads / config.num_kv_heads;
  plan.q_heads = {q_heads * rank, q_heads * (rank + 1)};
  plan.kv_heads = {plan.q_heads.begin / group, ceil_div(plan.q_heads.end, group)};
  plan.intermediate = cut("intermediate size", config.intermediate_size, rank, num_ranks);
  plan.vocab = cut("vocabulary", config.vocab_size, rank, num_ranks);
  plan.vocab_stride = ceil_div(config.vocab_size, num_ranks);
  return plan;
}

}  // namespace moba
