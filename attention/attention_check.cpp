#include "attention/attention_check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "device/check.h"

namespace moba {

void check_config(const AttentionConfig& c) {
  MOBA_CHECK(c.num_layers > 0, "attention: num_layers is ", c.num_layers);
  MOBA_CHECK(c.num_kv_heads > 0, "attention: num_kv_heads is ", c.num_kv_heads);
  MOBA_CHECK(c.num_q_heads > 0 && c.num_q_heads % c.num_kv_heads == 0, "attention: num_q_heads ",
             c.num_q_heads, " is not a multiple of num_kv_heads ", c.num_kv_heads);
  MOBA_CHECK(c.head_dim > 0 && c.head_dim <= 256 && c.head_dim % 8 == 0, "attention: head_dim ",
             c.head_dim, " is not a multiple of 8 up to 256");
  MOBA_CHECK(c.block_size > 0, "attention: block_size is ", c.block_size);
  MOBA_CHECK(c.moba_block_size > 0 && c.moba_block_size % c.block_size == 0,
             "attention: moba_block_size ", c.moba_block_size, " is not a multiple of block_size ",
             c.block_size);
  MOBA_CHECK(std::isfinite(c.softmax_scale) && c.softmax_scale > 0, "attention: softmax_scale is ",
             c.softmax_scale);
  MOBA_CHECK(
      c.dtype == DType::kFloat32 || c.dtype == DType::kBFloat16 || c.dtype == DType::kFloat16,
      "attention: dtype ", dtype_name(c.dtype), " is neither float32, bfloat16 nor float16");
  MOBA_CHECK(c.max_num_batched_tokens > 0, "attention: max_num_batched_tokens is ",
             c.max_num_batched_tokens);
  MOBA_CHECK(c.max_num_seqs > 0, "attention: max_num_seqs is ", c.max_num_seqs);
  MOBA_CHECK(c.max_model_len > 0, "attention: max_model_len is ", c.max_model_len);
}

std::int32_t check_metadata(const AttentionConfig& config, const AttentionMetadata& m) {
  MOBA_CHECK(m.num_seqs >= 0 && m.num_seqs <= config.max_num_seqs, "attention: a batch of ",
             m.num_seqs, " sequences, at most ", config.max_num_seqs, " are planned for");
  const auto seqs = static_cast<std::size_t>(m.num_seqs);
  const auto layers = static_cast<std::size_t>(config.num_layers);
  MOBA_CHECK(m.max_blocks_per_seq >= 0, "attention: max_blocks_per_seq is ", m.max_blocks_per_seq);
  const std::size_t width = static_cast<std::size_t>(m.max_blocks_per_seq);
  MOBA_CHECK(m.cu_seqlens_q.size() == seqs + 1, "attention: cu_seqlens_q has ",
             m.cu_seqlens_q.size(), " entries for ", seqs, " sequences");
  MOBA_CHECK(m.seq_lens.size() == seqs, "attention: seq_lens has ", m.seq_lens.size(),
             " entries for ", seqs, " sequences");
  MOBA_CHECK(m.block_tables.size() == seqs * width, "attention: block_tables has ",
             m.block_tables.size(), " entries instead of ", seqs, " x ", width);
  MOBA_CHECK(m.moba_topk.size() == layers * seqs, "attention: moba_topk has ", m.moba_topk.size(),
             " entries instead of ", layers, " x ", seqs);
  MOBA_CHECK(m.cu_seqlens_q[0] == 0, "attention: cu_seqlens_q starts at ", m.cu_seqlens_q[0]);
  std::int32_t max_page = -1;
  for (std::size_t s = 0; s < seqs; ++s) {
    const std::int64_t queries = std::int64_t{m.cu_seqlens_q[s + 1]} - m.cu_seqlens_q[s];
    const std::int64_t keys = m.seq_lens[s];
    MOBA_CHECK(queries >= 0, "attention: sequence ", s, ": cu_seqlens_q falls from ",
               m.cu_seqlens_q[s], " to ", m.cu_seqlens_q[s + 1]);
    MOBA_CHECK(keys >= queries, "attention: sequence ", s, " has ", queries, " queries but ", keys,
               " keys");
    MOBA_CHECK(keys <= config.max_model_len, "attention: sequence ", s, " has ", keys,
               " keys, at most ", config.max_model_len, " are planned for");
    for (std::size_t layer = 0; layer < layers; ++layer) {
      MOBA_CHECK(m.moba_topk[layer * seqs + s] >= 0, "attention: sequence ", s, ", layer ", layer,
                 ": moba_topk is ", m.moba_topk[layer * seqs + s]);
    }
    if (queries == 0) continue;
    const std::int64_t pages = (keys + config.block_size - 1) / config.block_size;
    MOBA_CHECK(pages <= m.max_blocks_per_seq, "attention: sequence ", s, " has ", keys,
               " keys, more than its ", m.max_blocks_per_seq, " pages of ", config.block_size);
    const auto table = m.block_tables.subspan(s * width, static_cast<std::size_t>(pages));
    for (std::size_t i = 0; i < table.size(); ++i) {
      MOBA_CHECK(table[i] >= 0, "attention: sequence ", s, ": page ", i, " has id ", table[i]);
      max_page = std::max(max_page, table[i]);
    }
  }
  MOBA_CHECK(m.cu_seqlens_q[seqs] <= config.max_num_batched_tokens, "attention: a batch of ",
             m.cu_seqlens_q[seqs], " tokens, at most ", config.max_num_batched_tokens,
             " are planned for");
  return max_page;
}

void check_run(const AttentionConfig& config, int layer, std::int64_t num_tokens,
               std::int32_t max_page, const TensorView& q, const PagedKvView& cache,
               const TensorView& out) {
  MOBA_CHECK(layer >= 0 && layer < config.num_layers, "attention: layer ", layer, " of ",
             config.num_layers);
  const Shape expected{num_tokens, config.num_q_heads, config.head_dim};
  MOBA_CHECK(q.shape() == expected && out.shape() == expected, "attention: q ",
             q.shape().to_string(), " and out ", out.shape().to_string(), " instead of ",
             expected.to_string());
  MOBA_CHECK(q.is_contiguous() && out.is_contiguous(),
             "attention: rows of q or out are not contiguous");
  MOBA_CHECK(
      q.dtype() == config.dtype && out.dtype() == config.dtype && cache.dtype == config.dtype,
      "attention: q ", dtype_name(q.dtype()), ", out ", dtype_name(out.dtype()), " and cache ",
      dtype_name(cache.dtype), " instead of ", dtype_name(config.dtype));
  MOBA_CHECK(cache.num_kv_heads == config.num_kv_heads && cache.head_dim == config.head_dim,
             "attention: a cache of ", cache.num_kv_heads, " heads of ", cache.head_dim,
             " instead of ", config.num_kv_heads, " of ", config.head_dim);
  MOBA_CHECK(
      cache.block_size == config.block_size && cache.moba_block_size == config.moba_block_size,
      "attention: a cache of pages of ", cache.block_size, " and MoBA blocks of ",
      cache.moba_block_size, " instead of ", config.block_size, " and ", config.moba_block_size);
  MOBA_CHECK(max_page < cache.num_pages, "attention: page ", max_page, " in a cache of ",
             cache.num_pages);
}

}  // namespace moba
