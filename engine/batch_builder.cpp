#include "engine/batch_builder.h"

#include <algorithm>
#include <cstddef>

#include "device/check.h"

namespace moba {
namespace {

// Room in the block tables for sequences that grow.
constexpr std::size_t kSpareBlocks = 16;

}  // namespace

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

// The arrays' strides. They change seldom, so that most of their contents can stay.
void BatchBuilder::set_shape(const StepPlan& plan) {
  std::size_t needed = 0;
  for (const ScheduledChunk& chunk : plan.chunks) {
    needed = std::max(needed, chunk.sequence->block_table.size());
  }
  const auto num_seqs = static_cast<std::int32_t>(plan.chunks.size());
  auto stride = static_cast<std::size_t>(batch_.max_blocks_per_seq);
  if (needed > stride || stride > 2 * needed + kSpareBlocks) {
    const std::size_t longest =
        std::max(needed, static_cast<std::size_t>(config_.max_blocks_per_seq));
    stride = std::min(longest, needed + needed / 8 + kSpareBlocks);
    batch_.max_blocks_per_seq = static_cast<std::int32_t>(stride);
    rows_.clear();
  }
  keeps_topk_ = num_seqs == batch_.num_seqs;  // which is its stride
  batch_.num_seqs = num_seqs;
  batch_.block_tables.resize(stride * plan.chunks.size());
  batch_.moba_topk.resize(static_cast<std::size_t>(config_.num_layers) * plan.chunks.size());
  rows_.resize(plan.chunks.size());
}

const Batch& BatchBuilder::build(const StepPlan& plan) {
  batch_.num_tokens = static_cast<std::int32_t>(plan.num_tokens);
  batch_.token_ids.clear();
  batch_.token_sources.clear();
  batch_.positions.clear();
  batch_.cu_seqlens_q.assign(1, 0);
  batch_.seq_lens.clear();
  batch_.kv_write_plan.clear();
  batch_.page_copies = plan.copies;
  batch_.sample_rows.clear();
  batch_.prompt_logprob_rows.clear();
  set_shape(plan);
  for (std::size_t i = 0; i < plan.chunks.size(); ++i) add(plan.chunks[i], i);
  return batch_;
}

void BatchBuilder::add_tokens(const ScheduledChunk& chunk) {
  const Sequence& sequence = *chunk.sequence;
  const auto row = static_cast<std::size_t>(batch_.token_ids.size());
  const auto first = sequence.tokens.begin() + static_cast<std::ptrdiff_t>(chunk.first);
  batch_.token_ids.insert(batch_.token_ids.end(), first,
                          first + static_cast<std::ptrdiff_t>(chunk.num_tokens));
  for (std::int64_t p = chunk.first; p < chunk.end(); ++p) {
    batch_.positions.push_back(static_cast<std::int32_t>(p));
  }
  if (chunk.end() > sequence.num_known_tokens()) {
    MOBA_CHECK(sequence.num_unknown_tokens == 1, "sequence ", sequence.id, " has ",
               sequence.num_unknown_tokens, " unknown tokens in a step");
    batch_.token_sources.resize(static_cast<std::size_t>(batch_.num_tokens), -1);
    const std::size_t last = row + static_cast<std::size_t>(chunk.num_tokens) - 1;
    batch_.token_ids[last] = 0;
    batch_.token_sources[last] = sequence.unknown_sample_row;
  }
}

void BatchBuilder::add_attention(const ScheduledChunk& chunk, std::size_t index) {
  const Sequence& sequence = *chunk.sequence;
  const std::vector<std::int32_t>& table = sequence.block_table;
  const bool prompt = sequence.in_prompt(chunk.first);
  MOBA_CHECK(!prompt || chunk.end() <= sequence.num_prompt_tokens ||
                 sequence.prefill_topk == sequence.decode_topk,
             "sequence ", sequence.id, ": a chunk of tokens [", chunk.first, ", ", chunk.end(),
             ") has two attention modes");
  Row& row = rows_[index];
  const bool same = row.sequence_id == sequence.id;
  const bool same_table = same && row.block_table_version == sequence.block_table_version;
  const std::size_t there = same_table ? std::min(row.num_blocks, table.size()) : 0;
  const auto stride = static_cast<std::size_t>(batch_.max_blocks_per_seq);
  std::copy(table.begin() + static_cast<std::ptrdiff_t>(there), table.end(),
            batch_.block_tables.begin() + static_cast<std::ptrdiff_t>(index * stride + there));
  if (!keeps_topk_ || !same || row.in_prompt != prompt) {
    const std::vector<std::int32_t>& topk = prompt ? sequence.prefill_topk : sequence.decode_topk;
    const auto num_seqs = static_cast<std::size_t>(batch_.num_seqs);
    for (std::size_t layer = 0; layer < static_cast<std::size_t>(config_.num_layers); ++layer) {
      batch_.moba_topk[layer * num_seqs + index] = topk[layer];
    }
  }
  row = {sequence.id, sequence.block_table_version, table.size(), prompt};
}

void BatchBuilder::add(const ScheduledChunk& chunk, std::size_t index) {
  Sequence& sequence = *chunk.sequence;
  const auto row = static_cast<std::int32_t>(batch_.token_ids.size());
  add_tokens(chunk);
  batch_.cu_seqlens_q.push_back(static_cast<std::int32_t>(batch_.token_ids.size()));
  batch_.seq_lens.push_back(static_cast<std::int32_t>(chunk.end()));
  add_attention(chunk, index);
  batch_.kv_write_plan.append(sequence.block_table, chunk.first, chunk.num_tokens,
                              config_.block_size, config_.moba_block_size);

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
