#include "engine/scheduler.h"

#include <algorithm>
#include <span>

#include "device/check.h"

namespace moba {
namespace {

// A sequence is not held back for less than that many tokens that it could find in the cache later.
constexpr std::int64_t kMinDeferredTokens = 128;

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

// Tokens, from the start, that all have the attention of the prefix root, so that others may share
// their pages.
std::int64_t shareable_tokens(const Sequence& sequence) {
  if (sequence.prefix_root == nullptr) return 0;
  return sequence.prefill_topk == sequence.decode_topk ? sequence.num_tokens()
                                                       : sequence.num_prompt_tokens;
}

// Number of leading elements that are equal; each hash covers all before it, so this is a search.
std::int64_t common_pages(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) {
  std::size_t low = 0;
  std::size_t high = std::min(a.size(), b.size());
  while (low < high) {
    const std::size_t middle = (low + high + 1) / 2;
    if (a[middle - 1] == b[middle - 1]) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return static_cast<std::int64_t>(low);
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

void Scheduler::fork(Sequence* parent, Sequence* child) {
  child->num_computed_tokens = parent->num_computed_tokens;
  child->block_table = parent->block_table;
  child->page_hashes = parent->page_hashes;
  child->was_admitted = child->is_running = true;
  for (const std::int32_t page : child->block_table) allocator_.add_holder(page);
  parent->num_seats -= child->num_seats;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), child, ByRank{}), child);
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
  running_.erase(running);
  sequence->is_running = false;
  num_seats_ -= static_cast<std::size_t>(sequence->num_seats);
  cache_.release(sequence->block_table);
  wake_deferred();
}

void Scheduler::reset() {
  waiting_.clear();
  deferred_.clear();
  running_.clear();
  num_seats_ = 0;
  plan_.chunks.clear();
  plan_.copies.clear();
  plan_.num_tokens = 0;
  cache_.reset();
}

PrefixKey Scheduler::prefix_key(const Sequence& sequence) const {
  const auto pages = std::min<std::size_t>(
      sequence.page_hashes.size(),
      static_cast<std::size_t>(shareable_tokens(sequence) / config_.block_size));
  return {&sequence.prefix_root, sequence.tokens,
          std::span<const std::uint64_t>(sequence.page_hashes).first(pages)};
}

// Those whose model has come as far as they waited for, or does not run any more, wait as others
// do.
void Scheduler::wake_deferred() {
  std::erase_if(deferred_, [this](const Deferred& d) {
    if (d.until->is_running && d.until->num_computed_tokens < d.num_tokens) return false;
    waiting_.insert(d.sequence);
    return true;
  });
}

// If a sequence before this one is about to compute pages that it could use, it waits for them.
bool Scheduler::defer(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages) {
  const std::int64_t least =
      std::min<std::int64_t>(kMinDeferredTokens, config_.max_num_batched_tokens);
  for (const Sequence* other : running_) {
    if (ByRank{}(sequence, other)) break;
    if (!other->in_prompt(other->num_computed_tokens)) continue;
    const std::int64_t common = common_pages(key.hashes, prefix_key(*other).hashes);
    const std::int64_t until = common * config_.block_size;
    if (until - num_cached_pages * config_.block_size < least) continue;
    if (other->num_computed_tokens >= until) continue;
    deferred_.push_back({sequence, other, until});
    return true;
  }
  return false;
}

void Scheduler::preempt_last() {
  Sequence* sequence = running_.back();
  running_.pop_back();
  sequence->is_running = false;
  num_seats_ -= static_cast<std::size_t>(sequence->num_seats);
  cache_.release(sequence->block_table);
  sequence->num_computed_tokens = 0;
  waiting_.insert(sequence);
  ++stats_.num_preemptions;
  wake_deferred();
}

// Makes room for a sequence of a smaller (more urgent) priority.
bool Scheduler::preempt_below(int priority) {
  if (running_.empty() || running_.back()->priority <= priority) return false;
  preempt_last();
  return true;
}

// Pages that running sequences still need for the tokens they have, and one more each, so that they
// can go on for a while.
std::int64_t Scheduler::num_promised_pages() const {
  auto promised = static_cast<std::int64_t>(running_.size());
  for (const Sequence* other : running_) {
    promised += std::max<std::int64_t>(
        0, pages_of(other->num_tokens()) - static_cast<std::int64_t>(other->block_table.size()));
  }
  return promised;
}

// Whether there is room for the sequence now. It may have been deferred instead of admitted.
bool Scheduler::try_admit(Sequence* sequence) {
  const auto seats = static_cast<std::size_t>(sequence->num_seats);
  while (num_seats_ + seats > static_cast<std::size_t>(config_.max_num_seqs)) {
    if (!preempt_below(sequence->priority)) return false;
  }
  // One token at least is computed, for its logits; all, if the prompt's are wanted.
  PrefixKey key = prefix_key(*sequence);
  const std::int64_t usable =
      sequence->wants_prompt_logprobs ? 0 : (sequence->num_tokens() - 1) / config_.block_size;
  key.hashes =
      key.hashes.first(std::min<std::size_t>(key.hashes.size(), static_cast<std::size_t>(usable)));
  const std::int64_t pages = pages_of(sequence->num_tokens());
  for (;;) {
    // Looking pages up costs time in proportion to the prompt: not while it cannot help.
    const std::int64_t room = cache_.num_available() - num_promised_pages();
    if (pages - static_cast<std::int64_t>(key.hashes.size()) <= room) {
      const PrefixCache::Match match = cache_.match(key);
      if (defer(sequence, key, match.pages)) return true;
      if (pages - match.pages + match.evictable <= room) {
        start(sequence, key, match.pages);
        return true;
      }
    }
    if (!preempt_below(sequence->priority)) return false;
  }
}

void Scheduler::start(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages) {
  cache_.acquire(key, num_cached_pages, sequence->block_table);
  sequence->num_computed_tokens = num_cached_pages * config_.block_size;
  if (!sequence->was_admitted) {
    sequence->was_admitted = true;
    sequence->num_cached_tokens = sequence->num_computed_tokens;
    stats_.num_prefix_lookup_tokens += sequence->num_tokens();
    stats_.num_prefix_hit_tokens += sequence->num_cached_tokens;
  }
  sequence->is_running = true;
  num_seats_ += static_cast<std::size_t>(sequence->num_seats);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ByRank{}), sequence);
}

void Scheduler::admit() {
  wake_deferred();
  while (!waiting_.empty()) {
    Sequence* sequence = *waiting_.begin();
    // Taken out first: a preemption on its behalf puts others in.
    waiting_.erase(waiting_.begin());
    if (!try_admit(sequence)) {
      waiting_.insert(sequence);
      return;
    }
  }
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
}

const StepPlan& Scheduler::schedule() {
  plan_.chunks.clear();
  plan_.copies.clear();
  plan_.num_tokens = 0;
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

void Scheduler::cache_full_pages(const ScheduledChunk& chunk) {
  Sequence& sequence = *chunk.sequence;
  if (!config_.enable_prefix_caching || sequence.prefix_root == nullptr) return;
  const std::int64_t end = std::min(chunk.end(), shareable_tokens(sequence));
  const auto block_size = static_cast<std::size_t>(config_.block_size);
  const auto last_page = static_cast<std::size_t>(end) / block_size;
  for (auto i = static_cast<std::size_t>(chunk.first) / block_size; i < last_page; ++i) {
    if (sequence.page_hashes.size() == i) {
      const std::uint64_t parent =
          i == 0 ? prefix_root_hash(*sequence.prefix_root) : sequence.page_hashes[i - 1];
      sequence.page_hashes.push_back(
          prefix_page_hash(parent, std::span(sequence.tokens).subspan(i * block_size, block_size)));
    }
    cache_.insert(prefix_key(sequence), i, sequence.block_table);
  }
}

void Scheduler::complete_step() {
  for (const ScheduledChunk& chunk : plan_.chunks) {
    chunk.sequence->num_computed_tokens = chunk.end();
    cache_full_pages(chunk);
  }
  plan_.chunks.clear();
  plan_.num_tokens = 0;
}

}  // namespace moba
