// Who runs: admission, waiting for another's pages, preemption.
#include <algorithm>
#include <span>

#include "device/check.h"
#include "engine/scheduler.h"

namespace moba {
namespace {

// A sequence does not begin to wait for less than that many tokens that another computes.
constexpr std::int64_t kMinSharedTokens = 128;

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

// The pages that the sequence may take from the cache. One token at least is computed, for its
// logits; and all whose rows give log probabilities of the prompt that are still wanted.
PrefixKey Scheduler::usable_key(const Sequence& sequence) const {
  PrefixKey key = prefix_key(sequence);
  std::int64_t tokens = sequence.num_tokens() - 1;
  if (sequence.wants_prompt_logprobs &&
      sequence.num_prompt_logprobs < sequence.num_prompt_tokens - 1) {
    tokens = std::min(tokens, sequence.num_prompt_logprobs);
  }
  const auto pages = static_cast<std::size_t>(tokens / config_.block_size);
  key.hashes = key.hashes.first(std::min(key.hashes.size(), pages));
  return key;
}

std::int64_t Scheduler::num_shared_pages(const PrefixKey& key, const Sequence& other) const {
  return common_pages(key.hashes, prefix_key(other).hashes);
}

// Moves a running sequence over pages that others have computed since it came here.
void Scheduler::skip_cached_pages(Sequence* sequence, const PrefixKey& key) {
  for (;;) {
    const std::int64_t page = sequence->num_computed_tokens / config_.block_size;
    const auto index = static_cast<std::size_t>(page);
    if (index >= key.hashes.size()) return;
    if (!cache_.acquire_next(key, index, sequence->block_table)) return;
    ++sequence->block_table_version;
    const std::int64_t end = (page + 1) * config_.block_size;
    if (!sequence->was_preempted) {
      sequence->num_cached_tokens += end - sequence->num_computed_tokens;
      stats_.num_prefix_hit_tokens += end - sequence->num_computed_tokens;
    }
    sequence->num_computed_tokens = end;
    sequence->num_offered_pages = page + 1;
  }
}

// Whether the sequence, which reads known tokens, computes the page that comes next or leaves it to
// one that does, and that comes before it in rank.
void Scheduler::claim_next_page(Sequence* sequence, const PrefixKey& key) {
  const bool was_held = sequence->is_held;
  sequence->is_held = false;
  const auto page = static_cast<std::size_t>(sequence->num_computed_tokens / config_.block_size);
  if (page >= sequence->page_hashes.size()) return;
  const auto [it, is_new] = readers_.try_emplace(sequence->page_hashes[page], sequence);
  if (is_new) return;
  Sequence* reader = it->second;
  // One that has been preempted since reads nothing.
  if (!reader->is_running || ByRank{}(sequence, reader)) {
    it->second = sequence;
    if (reader->is_running) claim_next_page(reader, usable_key(*reader));
    return;
  }
  const std::int64_t shared = num_shared_pages(key, *reader) - static_cast<std::int64_t>(page);
  // Once it waits it does so to the end of what they share.
  sequence->is_held = shared * config_.block_size >= (was_held ? 1 : min_shared_tokens());
}

void Scheduler::find_readers() {
  if (!config_.enable_prefix_caching) return;
  readers_.clear();
  for (Sequence* sequence : running_) {
    const auto page = static_cast<std::size_t>(sequence->num_computed_tokens / config_.block_size);
    // Those that generate, most of all, know no page that is not computed.
    if (page >= sequence->page_hashes.size()) {
      sequence->is_held = false;
      continue;
    }
    const PrefixKey key = usable_key(*sequence);
    skip_cached_pages(sequence, key);
    claim_next_page(sequence, key);
  }
}

std::int64_t Scheduler::min_shared_tokens() const {
  return std::min<std::int64_t>(kMinSharedTokens, config_.max_num_batched_tokens);
}

// If a sequence before this one is about to compute pages that it could use, it waits for them.
bool Scheduler::defer(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages) {
  const auto next = static_cast<std::size_t>(num_cached_pages);
  if (next >= key.hashes.size()) return false;
  const auto it = readers_.find(key.hashes[next]);
  if (it == readers_.end() || !it->second->is_running) return false;
  if (ByRank{}(sequence, it->second)) return false;
  const std::int64_t shared = num_shared_pages(key, *it->second);
  if ((shared - num_cached_pages) * config_.block_size < min_shared_tokens()) return false;
  deferred_.push_back({sequence, it->second, shared * config_.block_size});
  return true;
}

// Those whose reader has come as far as they waited for, or does not run any more, wait as others
// do.
void Scheduler::wake_deferred() {
  std::erase_if(deferred_, [this](const Deferred& d) {
    if (d.until->is_running && d.until->num_computed_tokens < d.num_tokens) return false;
    waiting_.insert(d.sequence);
    return true;
  });
}

void Scheduler::preempt_last() {
  Sequence* sequence = running_.back();
  offer_full_pages(sequence);
  running_.pop_back();
  leave_running(sequence);
  sequence->num_computed_tokens = 0;
  sequence->was_preempted = true;
  waiting_.insert(sequence);
  ++stats_.num_preemptions;
  wake_deferred();
}

// Pages that the running sequence still needs for the tokens it has, and one more, so that it can
// go on for a while.
std::int64_t Scheduler::num_promised_pages(const Sequence& sequence) const {
  return 1 + std::max<std::int64_t>(0, pages_of(sequence.num_tokens()) -
                                           static_cast<std::int64_t>(sequence.block_table.size()));
}

// Pages that are there and promised to nobody; may be negative.
std::int64_t Scheduler::num_spare_pages() const {
  std::int64_t pages = cache_.num_available();
  for (const Sequence* sequence : running_) pages -= num_promised_pages(*sequence);
  return pages;
}

// How many of the last of running_ must be preempted so that `num_pages` are spare and `num_seats`
// free; 0 if all that may be, those of a larger priority than `priority`, are not enough.
std::size_t Scheduler::num_to_preempt(int priority, std::int64_t num_pages, std::size_t num_seats) {
  std::int64_t spare = num_spare_pages();
  std::size_t seats = num_seats_;
  std::size_t count = 0;
  bool enough = false;
  num_given_up_.resize(static_cast<std::size_t>(config_.num_pages), 0);
  while (!enough && count < running_.size()) {
    const Sequence& sequence = *running_[running_.size() - 1 - count];
    if (sequence.priority <= priority) break;
    ++count;
    seats -= static_cast<std::size_t>(sequence.num_seats);
    spare += num_promised_pages(sequence);
    for (const std::int32_t page : sequence.block_table) {
      const std::int32_t holders = allocator_.num_holders(page) - (cache_.is_cached(page) ? 1 : 0);
      if (++num_given_up_[static_cast<std::size_t>(page)] == holders) ++spare;
    }
    enough = num_pages <= spare && seats + num_seats <= max_num_seqs();
  }
  for (std::size_t i = 0; i < count; ++i) {
    for (const std::int32_t page : running_[running_.size() - 1 - i]->block_table) {
      num_given_up_[static_cast<std::size_t>(page)] = 0;
    }
  }
  return enough ? count : 0;
}

// Admits the sequence, or defers it; false: there is no room for it now.
bool Scheduler::try_admit(Sequence* sequence) {
  const PrefixKey key = usable_key(*sequence);
  const PrefixCache::Match match = cache_.estimate(key);
  if (defer(sequence, key, match.pages)) return true;

  const auto seats = static_cast<std::size_t>(sequence->num_seats);
  const std::int64_t pages = pages_of(sequence->num_tokens());
  const std::int64_t spare = num_spare_pages();
  const bool fits =
      num_seats_ + seats <= max_num_seqs() && pages - match.pages + match.evictable <= spare;
  if (!fits) {
    if (running_.empty() || running_.back()->priority <= sequence->priority) return false;
    if (blocked_.id == sequence->id && blocked_.running_version == running_version_ &&
        blocked_.num_cached_pages == match.pages && blocked_.num_spare_pages >= spare) {
      return false;
    }
  }
  const std::int64_t taken = cache_.acquire(key, match.pages, sequence->block_table);
  if (!fits || taken != match.pages) {
    const std::int64_t missing = pages - taken;
    const bool has_seats = num_seats_ + seats <= max_num_seqs();
    if (!has_seats || missing > num_spare_pages()) {
      const std::size_t count = num_to_preempt(sequence->priority, missing, seats);
      if (count == 0) {
        cache_.release(sequence->block_table);
        blocked_ = {sequence->id, running_version_, match.pages, spare};
        return false;
      }
      for (std::size_t i = 0; i < count; ++i) preempt_last();
    }
  }
  start(sequence, key, taken);
  return true;
}

// The sequence has its first `num_cached_pages` pages.
void Scheduler::start(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages) {
  sequence->num_computed_tokens = num_cached_pages * config_.block_size;
  sequence->num_offered_pages = num_cached_pages;
  ++sequence->block_table_version;
  if (!sequence->was_admitted) {
    sequence->was_admitted = true;
    sequence->num_cached_tokens = sequence->num_computed_tokens;
    stats_.num_prefix_lookup_tokens += sequence->num_tokens();
    stats_.num_prefix_hit_tokens += sequence->num_cached_tokens;
  }
  num_seats_ += static_cast<std::size_t>(sequence->num_seats);
  join_running(sequence);
  if (config_.enable_prefix_caching) claim_next_page(sequence, key);
}

void Scheduler::admit() {
  wake_deferred();
  while (!waiting_.empty()) {
    // Those that are preempted on its behalf come after it.
    const auto first = waiting_.begin();
    if (!try_admit(*first)) return;
    waiting_.erase(first);
  }
}

}  // namespace moba
