#include "engine/scheduler.h"

#include <algorithm>

#include "device/check.h"

namespace moba {
namespace {

// Tokens that the sequence still has to compute and may compute in one chunk.
std::int64_t next_tokens(const Sequence& sequence) {
  std::int64_t end = sequence.num_tokens();
  // A chunk has one attention mode.
  if (sequence.in_prompt(sequence.num_computed_tokens) && end > sequence.num_prompt_tokens &&
      sequence.prefill_topk != sequence.decode_topk) {
    end = sequence.num_prompt_tokens;
  }
  return end - sequence.num_computed_tokens;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(config), allocator_(static_cast<std::int32_t>(config.num_pages)) {
  MOBA_CHECK(config.max_num_batched_tokens >= 1, "max_num_batched_tokens is ",
             config.max_num_batched_tokens, "; it must be >= 1");
  MOBA_CHECK(config.max_num_seqs >= 1, "max_num_seqs is ", config.max_num_seqs,
             "; it must be >= 1");
  MOBA_CHECK(config.block_size >= 1, "block_size is ", config.block_size, "; it must be >= 1");
}

std::int64_t Scheduler::pages_needed(const Sequence& sequence) const {
  // The last token of an output is never computed.
  const std::int64_t computed = std::max(sequence.num_prompt_tokens, sequence.max_num_tokens - 1);
  return (computed + config_.block_size - 1) / config_.block_size;
}

void Scheduler::add(Sequence* sequence) {
  const std::int64_t needed = pages_needed(*sequence);
  MOBA_CHECK(needed <= config_.num_pages, "a sequence of ", sequence->max_num_tokens,
             " tokens needs ", needed, " pages of KV cache, and there are ", config_.num_pages);
  waiting_.insert(sequence);
}

void Scheduler::remove(Sequence* sequence) {
  if (waiting_.erase(sequence) > 0) return;
  const auto running = std::find(running_.begin(), running_.end(), sequence);
  MOBA_CHECK(running != running_.end(), "sequence ", sequence->id, " is not scheduled");
  running_.erase(running);
  claimed_pages_ -= pages_needed(*sequence);
  allocator_.free(sequence->block_table);
  sequence->block_table.clear();
}

void Scheduler::admit() {
  while (!waiting_.empty() && running_.size() < static_cast<std::size_t>(config_.max_num_seqs)) {
    Sequence* sequence = *waiting_.begin();
    const std::int64_t needed = pages_needed(*sequence);
    if (claimed_pages_ + needed > config_.num_pages) return;
    claimed_pages_ += needed;
    waiting_.erase(waiting_.begin());
    running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ByRank{}),
                    sequence);
  }
}

void Scheduler::give(Sequence* sequence, std::int64_t num_tokens) {
  const std::int64_t end = sequence->num_computed_tokens + num_tokens;
  const std::int64_t pages = (end + config_.block_size - 1) / config_.block_size;
  const std::int64_t missing = pages - static_cast<std::int64_t>(sequence->block_table.size());
  if (missing > 0) {
    const bool ok = allocator_.allocate(static_cast<std::int32_t>(missing), sequence->block_table);
    MOBA_CHECK(ok, "sequence ", sequence->id, " needs ", missing, " pages and ",
               allocator_.num_free(), " are free");
  }
  plan_.chunks.push_back({sequence, sequence->num_computed_tokens, num_tokens});
  plan_.num_tokens += num_tokens;
}

// Fills in what shares_ are given: even parts of the budget, at most `most` each; what one leaves
// goes to those after it, then to those before.
void Scheduler::share_out(std::int64_t budget, std::int64_t most) {
  std::int64_t left = static_cast<std::int64_t>(shares_.size());
  for (Share& share : shares_) {
    share.given = std::min({share.wanted, most, (budget + left - 1) / left});
    budget -= share.given;
    --left;
  }
  for (Share& share : shares_) {
    const std::int64_t more = std::min({share.wanted - share.given, most - share.given, budget});
    share.given += more;
    budget -= more;
  }
}

const StepPlan& Scheduler::schedule() {
  plan_.chunks.clear();
  plan_.num_tokens = 0;
  shares_.clear();
  admit();
  std::int64_t budget = config_.max_num_batched_tokens;
  bool generates = false;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::int64_t wanted = next_tokens(*running_[i]);
    if (wanted == 0) continue;
    if (wanted > 1) {
      // The first in rank is sure of a token.
      if (i == 0) --budget;
      shares_.push_back({i, wanted, 0});
    } else if (budget > 0) {
      give(running_[i], 1);
      --budget;
      generates = true;
    }
  }
  if (shares_.empty()) return plan_;
  if (shares_.front().running == 0) ++budget;
  const bool bounded = generates && config_.long_prefill_token_threshold > 0;
  share_out(budget, bounded ? config_.long_prefill_token_threshold : budget);
  for (const Share& share : shares_) {
    if (share.given > 0) give(running_[share.running], share.given);
  }
  return plan_;
}

void Scheduler::complete_step() {
  for (const ScheduledChunk& chunk : plan_.chunks) {
    chunk.sequence->num_computed_tokens = chunk.end();
  }
  plan_.chunks.clear();
  plan_.num_tokens = 0;
}

}  // namespace moba
