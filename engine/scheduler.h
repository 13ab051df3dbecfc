// Decides which tokens each step computes. Pure: knows tokens and pages, no model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <unordered_map>
#include <vector>

#include "engine/sequence.h"
#include "kvcache/block_allocator.h"
#include "kvcache/copy_pages.h"
#include "kvcache/prefix_cache.h"

namespace moba {

struct SchedulerConfig {
  int max_num_batched_tokens = 0;  // >= 1
  int max_num_seqs = 0;            // >= 1
  int block_size = 0;              // tokens per page
  std::int64_t num_pages = 0;
  // While some sequence generates, another takes at most that many tokens of a step; 0: as many as
  // there are.
  int long_prefill_token_threshold = 0;
  bool enable_prefix_caching = true;
};

// Tokens [first, first + num_tokens) of a sequence, computed in one step.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  std::int64_t first = 0;
  std::int64_t num_tokens = 0;

  std::int64_t end() const { return first + num_tokens; }
  // Whether the step ends with all tokens computed, so that the next one can be chosen.
  bool reaches_end() const { return end() == sequence->num_tokens(); }
};

struct StepPlan {
  std::vector<ScheduledChunk> chunks;  // by rank of their sequences
  std::vector<PageCopy> copies;        // to be made, in order, before anything is computed
  std::int64_t num_tokens = 0;
};

struct SchedulerStats {
  std::int64_t num_preemptions = 0;
  std::int64_t num_prefix_lookup_tokens = 0;  // of sequences when they were admitted
  std::int64_t num_prefix_hit_tokens = 0;     // of those, computed by others
};

// The one rule: a step gives every running sequence some new tokens until its computed tokens catch
// up with its tokens, at most max_num_batched_tokens over all. Reading a prompt in chunks, going on
// after a hit in the prefix cache or after a preemption, and generating are the same case.
// Sequences that need one token are served first; those that need more share what is left evenly,
// each at most long_prefill_token_threshold while another generates. So a long prompt delays the
// tokens of others by a bounded amount, and several progress side by side.
//
// Sequences rank by priority (smaller first), then by arrival. They are admitted in that order,
// when the pages for the tokens they have are there beside those that running sequences still need
// for theirs. One of a smaller priority may take the place of others that run, if that makes room
// enough. When pages run out, the last in rank is preempted: it waits again in its place, and its
// full pages stay in the prefix cache as long as they can. A sequence never loses pages or its seat
// to one behind it in rank.
//
// Of several that read the same prefix the first in rank computes each page, and the others take it
// from the cache: those that wait stay out until it has come past what they share (others may go
// past them meanwhile), those that run hold. As each waits for one before it in rank only, there is
// always one that waits for none.
//
// The first in rank of those that run gets a token in every step, whatever arrives. So the steps
// that a sequence takes are at most the tokens computed for it and for those before it in rank,
// and, for each time that it waits for room, the tokens of those behind it that run then: none of
// those is admitted past it.
//
// The caller alternates schedule() and complete_step(), then appends the new tokens, or
// placeholders for them, and removes what has ended; add, fork and remove do not come between those
// two calls. A step that failed is not completed: its sequences are removed. Steps that are under
// way count as done: whatever a later plan writes to a page must come after what an earlier one
// does with it. Borrows the sequences. Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);

  // Pages that a sequence can come to need.
  std::int64_t pages_needed(const Sequence& sequence) const;
  // The sequence must fit into the cache by itself (throws Error with the numbers).
  void add(Sequence* sequence);
  // Another sequence with the tokens that `parent`, which runs, has computed: it runs at once and
  // shares the pages. Both then differ in what follows; a shared page is copied before one of them
  // writes to it. The child's seats come out of the parent's.
  void fork(Sequence* parent, Sequence* child);
  // Ended, or cancelled at whatever point: its pages are free, or the cache's, when this returns.
  // Throws Error for a sequence that is not here.
  void remove(Sequence* sequence);

  // Chooses the next step's chunks and gives them pages. Empty only if there is nothing to do.
  // Valid until the next call.
  const StepPlan& schedule();
  // The plan is under way: its tokens count as computed.
  void complete_step();

  std::size_t num_waiting() const { return waiting_.size() + deferred_.size(); }
  std::size_t num_running() const { return running_.size(); }
  // That sequences hold; pages that are only cached do not count.
  std::int64_t num_pages_in_use() const { return cache_.num_in_use(); }
  const BlockAllocator& allocator() const { return allocator_; }
  const PrefixCache& cache() const { return cache_; }
  const SchedulerStats& stats() const { return stats_; }
  // Forgets all sequences, touching none of them, and the cache. For when something went wrong:
  // takes no memory and cannot fail.
  void reset();
  // Forgets what is cached and not in use.
  void clear_cache() { cache_.clear(); }

 private:
  struct ByRank {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->priority != b->priority ? a->priority < b->priority : a->id < b->id;
    }
  };
  // A waiting sequence that another one's progress will serve.
  struct Deferred {
    Sequence* sequence;
    const Sequence* until;    // runs: those it no longer serves are woken before it is let go
    std::int64_t num_tokens;  // that it must have computed
  };
  // The first of those that wait, for which preempting others made no room, and what that hung on.
  struct Blocked {
    std::int64_t id = -1;
    std::uint64_t running_version = 0;
    std::int64_t num_cached_pages = 0;
    std::int64_t num_spare_pages = 0;
  };

  std::int64_t pages_of(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  std::size_t max_num_seqs() const { return static_cast<std::size_t>(config_.max_num_seqs); }
  PrefixKey prefix_key(const Sequence& sequence) const;

  // scheduler_admission.cpp
  void admit();
  bool try_admit(Sequence* sequence);
  void start(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages);
  std::int64_t num_promised_pages(const Sequence& sequence) const;
  std::int64_t num_spare_pages() const;
  std::size_t num_to_preempt(int priority, std::int64_t num_pages, std::size_t num_seats);
  void preempt_last();
  PrefixKey usable_key(const Sequence& sequence) const;
  std::int64_t num_shared_pages(const PrefixKey& key, const Sequence& other) const;
  std::int64_t min_shared_tokens() const;
  bool defer(Sequence* sequence, const PrefixKey& key, std::int64_t num_cached_pages);
  void wake_deferred();
  void find_readers();
  void claim_next_page(Sequence* sequence, const PrefixKey& key);
  void skip_cached_pages(Sequence* sequence, const PrefixKey& key);

  // scheduler.cpp
  void join_running(Sequence* sequence);
  void leave_running(Sequence* sequence);
  void decide_shares();
  void share_out(std::int64_t budget, std::int64_t most);
  std::int64_t take_pages(std::size_t index, std::int64_t wanted);
  void give_own_page(Sequence* sequence);
  void offer_full_pages(Sequence* sequence);

  SchedulerConfig config_;
  BlockAllocator allocator_;
  PrefixCache cache_;
  std::set<Sequence*, ByRank> waiting_;
  std::vector<Deferred> deferred_;
  std::vector<Sequence*> running_;     // by rank
  std::uint64_t running_version_ = 0;  // counts the changes of running_
  std::size_t num_seats_ = 0;          // of running sequences
  Blocked blocked_;
  // The first in rank of those that compute a page next, by its hash.
  std::unordered_map<std::uint64_t, Sequence*> readers_;
  StepPlan plan_;
  std::vector<std::int64_t> given_;         // tokens of the step for each of running_
  std::vector<std::size_t> long_shares_;    // indices of those that need more than one token
  std::vector<std::int32_t> num_given_up_;  // [num_pages]: scratch of num_to_preempt, else 0
  SchedulerStats stats_;
};

}  // namespace moba
