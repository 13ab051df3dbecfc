// Decides which tokens each step computes. Pure: knows token counts and pages, no model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "engine/sequence.h"
#include "kvcache/block_allocator.h"

namespace moba {

struct SchedulerConfig {
  int max_num_batched_tokens = 0;  // >= 1
  int max_num_seqs = 0;            // >= 1
  int block_size = 0;              // tokens per page
  std::int64_t num_pages = 0;
  // While some sequence generates, another takes at most that many tokens of a step; 0: as many as
  // there are.
  int long_prefill_token_threshold = 0;
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
  std::vector<ScheduledChunk> chunks;
  std::int64_t num_tokens = 0;
};

// The one rule: a step gives every running sequence some new tokens until its computed tokens catch
// up with its tokens, at most max_num_batched_tokens over all. Reading a prompt in chunks and
// generating are the same case. Sequences that need one token come first; those that need more
// share what is left evenly, each at most long_prefill_token_threshold while another generates. So
// a long prompt delays the tokens of others by a bounded amount, and several progress side by side.
//
// Sequences rank by priority (smaller first), then by arrival. A sequence is admitted in that order
// once the pages that it can come to need are free of other sequences' claims; so a running
// sequence never waits for a page. Pages are taken as its tokens reach them. The first in rank of
// those that run gets a token in every step, whatever arrives: a sequence ends after at most as
// many steps as it and the sequences before it in rank have tokens.
//
// The caller alternates schedule() and complete_step(), then appends the new tokens and removes
// what has ended; add and remove do not come between those two calls. A step that failed is not
// completed: its sequences are removed. Borrows the sequences. Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);

  // Pages that a sequence can come to need.
  std::int64_t pages_needed(const Sequence& sequence) const;
  // The sequence must fit into the cache by itself (throws Error with the numbers).
  void add(Sequence* sequence);
  // Ended, or cancelled at whatever point: its pages are free when this returns. Throws Error for a
  // sequence that is not here.
  void remove(Sequence* sequence);

  // Chooses the next step's chunks and gives them pages. Empty only if there is nothing to do.
  // Valid until the next call.
  const StepPlan& schedule();
  // The plan has run: its tokens are computed.
  void complete_step();

  std::size_t num_waiting() const { return waiting_.size(); }
  std::size_t num_running() const { return running_.size(); }
  std::int64_t num_pages_in_use() const { return allocator_.num_blocks() - allocator_.num_free(); }

 private:
  struct ByRank {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->priority != b->priority ? a->priority < b->priority : a->id < b->id;
    }
  };
  // A sequence's part of a step under way.
  struct Share {
    std::size_t running;  // index in running_
    std::int64_t wanted;
    std::int64_t given;
  };

  void admit();
  void share_out(std::int64_t budget, std::int64_t most);
  void give(Sequence* sequence, std::int64_t num_tokens);

  SchedulerConfig config_;
  BlockAllocator allocator_;
  std::set<Sequence*, ByRank> waiting_;
  std::vector<Sequence*> running_;  // by rank
  std::int64_t claimed_pages_ = 0;  // by running sequences, taken or not
  StepPlan plan_;
  std::vector<Share> shares_;  // of sequences that need more than one token
};

}  // namespace moba
