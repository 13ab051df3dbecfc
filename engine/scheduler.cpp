#include "engine/scheduler.h"

#include <algorithm>
#include <span>

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
    : config_(config),
      allocator_(static_cast<std::int32_t>(config.num_pages)),
      cache_(allocator_, config.block_size, config.enable_prefix_caching) {
  MOBA_CHECK(config.max_num_batched_tokens >= 1, "max_num_batched_tokens is ",
             config.max_num_batched_tokens, "; it must be >= 1");
  MOBA_CHECK(config.max_num_seqs >= 1, "max_num_seqs is ", config.max_num_seqs,
             "; it must be >= 1");
}

std::int64_t Scheduler::pages_needed(const Sequence& sequence) const {
  // The last token of an output is never computed.
  return pages_of(std::max(sequence.num_prompt_tokens, sequence.max_num_tokens - 1));
}

void Scheduler::add(Sequence* sequence) {
  const std::int64_t needed = pages_needed(*sequence);
  MOBA_CHECK(needed <= config_.num_pages, "a sequence of ", sequence->max_num_tokens,
             " tokens needs ", needed, " pages of KV cache, and there are ", config_.num_pages);
  MOBA_CHECK(sequence->num_seats <= config_.max_num_seqs, "a request of ", sequence->num_seats,
             " sequences, and max_num_seqs is ", config_.max_num_seqs);
  waiting_.insert(sequence);
}

void Scheduler::join_running(Sequence* sequence) {
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ByRank{}), sequence);
  sequence->is_running = true;
  ++running_version_;
}

// It is no longer in running_: gives its seats and pages back.
void Scheduler::leave_running(Sequence* sequence) {
  sequence->is_running = false;
  sequence->is_held = false;
  num_seats_ -= static_cast<std::size_t>(sequence->num_seats);
  cache_.release(sequence->block_table);
  ++sequence->block_table_version;
  ++running_version_;
}

void Scheduler::fork(Sequence* parent, Sequence* child) {
  child->num_computed_tokens = parent->num_computed_tokens;
  child->block_table = parent->block_table;
  child->page_hashes = parent->page_hashes;
  child->num_offered_pages = parent->num_offered_pages;
  child->was_admitted = true;
  for (const std::int32_t page : child->block_table) allocator_.add_holder(page);
  parent->num_seats -= child->num_seats;
  join_running(child);
}

void Scheduler::remove(Sequence* sequence) {
  if (waiting_.erase(sequence) > 0) return;
  const auto deferred =
      std::find_if(deferred_.begin(), deferred_.end(),
                   [sequence](const Deferred& d) { return d.sequence == sequence; });
  if (deferred != deferred_.end()) {
    deferred_.erase(deferred);
    return;
  }
  const auto running = std::find(running_.begin(), running_.end(), sequence);
  MOBA_CHECK(running != running_.end(), "sequence ", sequence->id, " is not scheduled");
  offer_full_pages(sequence);
  running_.erase(running);
  leave_running(sequence);
  wake_deferred();
}

void Scheduler::reset() {
  waiting_.clear();
  deferred_.clear();
  running_.clear();
  readers_.clear();
  blocked_ = {};
  num_seats_ = 0;
  plan_.chunks.clear();
  plan_.copies.clear();
  plan_.num_tokens = 0;
  std::fill(num_given_up_.begin(), num_given_up_.end(), 0);
  cache_.reset();
}

PrefixKey Scheduler::prefix_key(const Sequence& sequence) const {
  PrefixKey key{&sequence.prefix_root, sequence.tokens, sequence.page_hashes};
  if (sequence.output_root != nullptr) {
    key.tail = &sequence.output_root;
    key.tail_page = static_cast<std::size_t>(sequence.num_prompt_tokens / config_.block_size);
  }
  return key;
}

// Fills in the shares of those that need more than one token: even parts of the budget, at most
// `most` each; what one leaves goes to those after it, then to those before.
void Scheduler::share_out(std::int64_t budget, std::int64_t most) {
  auto left = static_cast<std::int64_t>(long_shares_.size());
  for (const std::size_t i : long_shares_) {
    given_[i] = std::min({next_tokens(*running_[i]), most, (budget + left - 1) / left});
    budget -= given_[i];
    --left;
  }
  for (const std::size_t i : long_shares_) {
    if (budget == 0) return;
    const std::int64_t more =
        std::min({next_tokens(*running_[i]) - given_[i], most - given_[i], budget});
    given_[i] += more;
    budget -= more;
  }
}

// How many tokens each of running_ is to compute.
void Scheduler::decide_shares() {
  given_.assign(running_.size(), 0);
  long_shares_.clear();
  std::int64_t budget = config_.max_num_batched_tokens;
  bool generates = false;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const std::int64_t wanted = next_tokens(*running_[i]);
    if (running_[i]->is_held) continue;
    if (wanted > 1) {
      // The first in rank is sure of a token.
      if (i == 0) --budget;
      long_shares_.push_back(i);
    } else if (wanted == 1 && budget > 0) {
      given_[i] = 1;
      --budget;
      generates = true;
    }
  }
  if (long_shares_.empty()) return;
  if (long_shares_.front() == 0) ++budget;
  const bool bounded = generates && config_.long_prefill_token_threshold > 0;
  share_out(budget, bounded ? config_.long_prefill_token_threshold : budget);
}

// Gives running_[index] pages for its next `wanted` tokens, preempting those behind it if need be.
// Returns for how many tokens there are pages.
std::int64_t Scheduler::take_pages(std::size_t index, std::int64_t wanted) {
  Sequence* sequence = running_[index];
  const std::int64_t first = sequence->num_computed_tokens;
  std::vector<std::int32_t>& table = sequence->block_table;
  // Of a page that is not full and that others hold too; they may be preempted below.
  const auto num_copies = [&]() -> std::int64_t {
    const auto page = static_cast<std::size_t>(first / config_.block_size);
    return first % config_.block_size != 0 && allocator_.num_holders(table[page]) > 1 ? 1 : 0;
  };
  const auto missing = [&] {
    return pages_of(first + wanted) - static_cast<std::int64_t>(table.size()) + num_copies();
  };
  while (missing() > cache_.num_available() && running_.size() > index + 1) preempt_last();
  // None is behind it: as far as the pages reach.
  if (missing() > cache_.num_available()) {
    const std::int64_t pages =
        static_cast<std::int64_t>(table.size()) + cache_.num_available() - num_copies();
    wanted = pages * config_.block_size - first;
    if (wanted <= 0) return 0;
  }
  if (num_copies() > 0) give_own_page(sequence);
  const std::int64_t pages = pages_of(first + wanted) - static_cast<std::int64_t>(table.size());
  if (pages > 0) {
    MOBA_CHECK(cache_.allocate(pages, table), "sequence ", sequence->id, " needs ", pages,
               " pages and ", cache_.num_available(), " are there");
  }
  return wanted;
}

// The sequence is about to write into a page that others hold too: it gets a copy of its own.
void Scheduler::give_own_page(Sequence* sequence) {
  const auto index = static_cast<std::size_t>(sequence->num_computed_tokens / config_.block_size);
  std::int32_t& page = sequence->block_table[index];
  std::vector<std::int32_t> own;
  MOBA_CHECK(cache_.allocate(1, own), "sequence ", sequence->id, " needs a page of its own");
  plan_.copies.push_back({page, own[0]});
  cache_.release(page);
  page = own[0];
  ++sequence->block_table_version;
}

const StepPlan& Scheduler::schedule() {
  plan_.chunks.clear();
  plan_.copies.clear();
  plan_.num_tokens = 0;
  find_readers();
  admit();
  decide_shares();
  // running_ gets shorter when the last are preempted.
  for (std::size_t i = 0; i < running_.size(); ++i) {
    if (given_[i] == 0) continue;
    const std::int64_t tokens = take_pages(i, given_[i]);
    if (tokens == 0) continue;
    plan_.chunks.push_back({running_[i], running_[i]->num_computed_tokens, tokens});
    plan_.num_tokens += tokens;
  }
  return plan_;
}

// Enters the pages that have become full of computed, known tokens into the prefix cache.
void Scheduler::offer_full_pages(Sequence* sequence) {
  if (!config_.enable_prefix_caching || sequence->prefix_root == nullptr) return;
  const std::int64_t end = std::min(sequence->num_computed_tokens, sequence->num_known_tokens());
  const std::int64_t num_full = end / config_.block_size;
  for (; sequence->num_offered_pages < num_full; ++sequence->num_offered_pages) {
    const auto index = static_cast<std::size_t>(sequence->num_offered_pages);
    if (sequence->page_hashes.size() == index) {
      sequence->page_hashes.push_back(
          prefix_page_hash(prefix_key(*sequence), index, config_.block_size));
    }
    if (cache_.insert(prefix_key(*sequence), index, sequence->block_table)) {
      ++sequence->block_table_version;
    }
  }
}

void Scheduler::complete_step() {
  for (const ScheduledChunk& chunk : plan_.chunks) {
    chunk.sequence->num_computed_tokens = chunk.end();
    offer_full_pages(chunk.sequence);
  }
  plan_.chunks.clear();
  plan_.num_tokens = 0;
}

}  // namespace moba
