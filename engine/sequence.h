// One sequence of tokens on its way through the engine.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/sampling_state.h"
#include "kvcache/prefix_cache.h"

namespace moba {

// Tokens in, more tokens out. Owned by the engine; the scheduler moves it along. Plain data, no
// locking.
struct Sequence {
  std::int64_t id = 0;  // order of arrival, unique
  std::int64_t request_id = 0;
  int sample = 0;    // which of the request's samples
  int priority = 0;  // smaller goes first; set before the scheduler sees it, as is id

  std::vector<std::int32_t> tokens;  // the prompt, then the output
  // The last of them, that many, are placeholders: tokens that steps under way will choose.
  int num_unknown_tokens = 0;
  // Where the first of those comes from: the row of its step's batch.sample_rows.
  std::int32_t unknown_sample_row = -1;
  std::int64_t num_prompt_tokens = 0;
  // Tokens, from the start, whose keys and values are in the cache, or will be when the steps under
  // way are done.
  std::int64_t num_computed_tokens = 0;
  // The sequence ends when it has that many tokens; at least num_prompt_tokens, and equal to it for
  // a request that generates nothing.
  std::int64_t max_num_tokens = 0;

  std::vector<std::int32_t> block_table;  // pages in logical order
  // Counts the changes of the block table, but for pages appended to it.
  std::uint32_t block_table_version = 0;

  // What sequences with equal tokens must share to share pages; null: this one shares none.
  PrefixRoot prefix_root;
  // The same for the pages from the one of the first output token on, if those have another
  // attention; null: they have not.
  PrefixRoot output_root;
  // Hashes of the full pages (prefix_cache.h), as many as are known.
  std::vector<std::uint64_t> page_hashes;
  std::int64_t num_offered_pages = 0;  // that the prefix cache has seen since they were computed
  // Of tokens that others had computed when this sequence came to them for the first time.
  std::int64_t num_cached_tokens = 0;
  // The scheduler's.
  bool was_admitted = false;
  bool was_preempted = false;
  bool is_running = false;
  bool is_held = false;  // runs, but leaves the next page to a sequence before it
  // Of max_num_seqs: 1, and one for each sample that is to fork from it.
  int num_seats = 1;

  // [num_layers] each, see attention_policy.h. A chunk never holds tokens of both kinds if they
  // differ.
  std::vector<std::int32_t> prefill_topk;
  std::vector<std::int32_t> decode_topk;

  SamplingState sampling;
  // Samples that start with this one's prompt: each gets a first token from the same logits.
  std::vector<Sequence*> forks;
  // The log probabilities of tokens 1 .. num_prompt_tokens - 1 are wanted; of how many they are
  // there already, or come with the steps under way.
  bool wants_prompt_logprobs = false;
  int num_top_prompt_logprobs = 0;
  std::int64_t num_prompt_logprobs = 0;

  std::int64_t num_tokens() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t num_known_tokens() const { return num_tokens() - num_unknown_tokens; }
  std::int64_t num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  bool in_prompt(std::int64_t position) const { return position < num_prompt_tokens; }
  // Whether the logits after the last token are wanted.
  bool wants_more() const { return num_tokens() < max_num_tokens; }
};

}  // namespace moba
