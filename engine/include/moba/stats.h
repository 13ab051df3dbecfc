// What an engine has done so far, for dashboards and tests.
#pragma once

#include <array>
#include <cstdint>

#include "moba/export.h"

namespace moba {

// Counts durations in buckets whose bounds are at most a quarter apart. Plain data: copies are
// snapshots.
class MOBA_API LatencyHistogram {
 public:
  // From 2^-17 s (7.6 us) to 2^11 s, four to an octave, one below and one above.
  static constexpr int kNumBuckets = 28 * 4 + 2;

  // Seconds: bucket i counts durations in [upper_bound(i - 1), upper_bound(i)), the first from 0
  // on; infinity for the last.
  static double upper_bound(int bucket);

  // Negative durations count as 0.
  void add(double seconds);
  std::int64_t count() const { return count_; }
  double sum_seconds() const { return sum_seconds_; }
  std::int64_t bucket_count(int bucket) const { return counts_[static_cast<std::size_t>(bucket)]; }
  // The duration that a share q (0 to 1) of all does not exceed, interpolated in its bucket; 0 if
  // there is none.
  double quantile(double q) const;

 private:
  std::array<std::int64_t, kNumBuckets> counts_{};
  std::int64_t count_ = 0;
  double sum_seconds_ = 0;
};

// Counters only grow; the others are of the moment.
struct EngineStats {
  std::int64_t num_running = 0;       // sequences that take part in steps
  std::int64_t num_waiting = 0;       // sequences that wait for their turn
  std::int64_t num_pages = 0;         // of the KV cache
  std::int64_t num_pages_in_use = 0;  // that sequences hold
  std::int64_t num_pages_cached = 0;  // kept for requests with the same beginning, in use or not

  std::int64_t num_steps = 0;
  std::int64_t num_prompt_tokens = 0;  // of requests whose prompt has been read
  std::int64_t num_output_tokens = 0;

  std::int64_t num_refused = 0;    // requests that submit() did not take
  std::int64_t num_finished = 0;   // requests that have ended, however; of them:
  std::int64_t num_cancelled = 0;  // by their caller or by the end of the engine
  std::int64_t num_expired = 0;    // at their deadline
  std::int64_t num_failed = 0;     // with an error

  std::int64_t num_preemptions = 0;           // of sequences, for want of pages or seats
  std::int64_t num_prefix_lookup_tokens = 0;  // of sequences when they started
  std::int64_t num_prefix_hit_tokens = 0;     // of those, computed by others
  std::int64_t num_evicted_pages = 0;         // from the prefix cache, for want of memory
  std::int64_t moba_blocks_attended = 0;      // sums over MoBA layers, query tokens and heads
  std::int64_t moba_blocks_available = 0;

  LatencyHistogram queue_time;           // of requests, from submit() to their first step
  LatencyHistogram time_to_first_token;  // of requests that generate, from submit() on
  LatencyHistogram inter_token;          // from a token of a sample to its next
  LatencyHistogram end_to_end;           // of requests that ended by themselves, from submit() on
  LatencyHistogram step_time;            // from a step's launch to its result
};

}  // namespace moba
