#include "engine/batch_builder.h"

#include <algorithm>
#include <cstddef>

#include "device/check.h"

namespace moba {

AttentionMetadata Batch::attention_metadata() const {
  AttentionMetadata metadata;
  metadata.num_seqs = num_seqs;
  metadata.cu_seqlens_q = cu_seqlens_q;
  metadata.seq_lens = seq_lens;
  metadata.block_tables = block_tables;
  metadata.max_blocks_per_seq = max_blocks_per_seq;
  metadata.moba_topk = moba_topk;
  return metadata;
}

BatchBuilder::BatchBuilder(const BatchBuilderConfig& config) : config_(config) {
  const auto tokens = static_cast<std::size_t>(config.max_num_batched_tokens);
  // A sequence of a batch has a token at least.
  const auto seqs = std::min(tokens, static_cast<std::size_t>(config.max_num_seqs));
  batch_.token_ids.reserve(tokens);
  batch_.positions.reserve(tokens);
  batch_.kv_write_plan.slot_mapping.reserve(tokens);
  batch_.cu_seqlens_q.reserve(seqs + 1);
  batch_.seq_lens.reserve(seqs);
  batch_.moba_topk.reserve(static_cast<std::size_t>(config.num_layers) * seqs);
  batch_.sample_rows.reserve(seqs);
}

const Batch& BatchBuilder::build(const StepPlan& plan) {
  const std::size_t num_seqs = plan.chunks.size();
  batch_.num_tokens = static_cast<std::int32_t>(plan.num_tokens);
  batch_.num_seqs = static_cast<std::int32_t>(num_seqs);
  batch_.token_ids.clear();
  batch_.positions.clear();
  batch_.cu_seqlens_q.assign(1, 0);
  batch_.seq_lens.clear();
  batch_.kv_write_plan.clear();
  batch_.page_copies = plan.copies;
  batch_.sample_rows.clear();
  batch_.prompt_logprob_rows.clear();
  batch_.moba_topk.resize(static_cast<std::size_t>(config_.num_layers) * num_seqs);

  std::size_t max_blocks = 0;
  for (const ScheduledChunk& chunk : plan.chunks) {
    max_blocks = std::max(max_blocks, chunk.sequence->block_table.size());
  }
  batch_.max_blocks_per_seq = static_cast<std::int32_t>(max_blocks);
  batch_.block_tables.resize(max_blocks * num_seqs);
  for (std::size_t i = 0; i < num_seqs; ++i) add(plan.chunks[i], i, num_seqs);
  return batch_;
}

void BatchBuilder::add(const ScheduledChunk& chunk, std::size_t index, std::size_t num_seqs) {
  Sequence& sequence = *chunk.sequence;
  const auto row = static_cast<std::int32_t>(batch_.token_ids.size());
  const auto first = sequence.tokens.begin() + static_cast<std::ptrdiff_t>(chunk.first);
  batch_.token_ids.insert(batch_.token_ids.end(), first,
                          first + static_cast<std::ptrdiff_t>(chunk.num_tokens));
  for (std::int64_t p = chunk.first; p < chunk.end(); ++p) {
    batch_.positions.push_back(static_cast<std::int32_t>(p));
  }
  batch_.cu_seqlens_q.push_back(static_cast<std::int32_t>(batch_.token_ids.size()));
  batch_.seq_lens.push_back(static_cast<std::int32_t>(chunk.end()));

  const std::vector<std::int32_t>& table = sequence.block_table;
  const auto stride = static_cast<std::size_t>(batch_.max_blocks_per_seq);
  const auto out = batch_.block_tables.begin() + static_cast<std::ptrdiff_t>(index * stride);
  std::copy(table.begin(), table.end(), out);
  // Never read; a page that exists, so that nothing can go astray.
  std::fill(out + static_cast<std::ptrdiff_t>(table.size()),
            out + static_cast<std::ptrdiff_t>(stride), 0);
  batch_.kv_write_plan.append(table, chunk.first, chunk.num_tokens, config_.block_size,
                              config_.moba_block_size);

  const bool prompt = sequence.in_prompt(chunk.first);
  MOBA_CHECK(!prompt || chunk.end() <= sequence.num_prompt_tokens ||
                 sequence.prefill_topk == sequence.decode_topk,
             "sequence ", sequence.id, ": a chunk of tokens [", chunk.first, ", ", chunk.end(),
             ") has two attention modes");
  const std::vector<std::int32_t>& topk = prompt ? sequence.prefill_topk : sequence.decode_topk;
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(config_.num_layers); ++layer) {
    batch_.moba_topk[layer * num_seqs + index] = topk[layer];
  }

  if (chunk.reaches_end() && sequence.wants_more()) {
    const std::int32_t last = row + static_cast<std::int32_t>(chunk.num_tokens) - 1;
    batch_.sample_rows.push_back({last, &sequence, chunk.end()});
    for (Sequence* fork : sequence.forks) batch_.sample_rows.push_back({last, fork, chunk.end()});
  }
  if (sequence.wants_prompt_logprobs) {
    // The row at position p predicts token p + 1.
    const std::int64_t last = std::min(chunk.end(), sequence.num_prompt_tokens - 1);
    const std::int64_t first_row = std::max(chunk.first, sequence.num_prompt_logprobs);
    if (first_row < last) {
      batch_.prompt_logprob_rows.push_back(
          {row + static_cast<std::int32_t>(first_row - chunk.first), &sequence, first_row + 1,
           last - first_row});
    }
  }
}

}  // namespace moba
