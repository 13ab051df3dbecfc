#include "engine/scheduler.h"

#include <memory>

#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

SchedulerConfig make_config(int budget, int max_seqs, std::int64_t pages, int block_size = 4) {
  SchedulerConfig config;
  config.max_num_batched_tokens = budget;
  config.max_num_seqs = max_seqs;
  config.block_size = block_size;
  config.num_pages = pages;
  return config;
}

std::unique_ptr<Sequence> make_sequence(std::int64_t id, std::int64_t prompt, std::int64_t output) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens.assign(static_cast<std::size_t>(prompt), 7);
  sequence->num_prompt_tokens = prompt;
  sequence->max_num_tokens = prompt + output;
  return sequence;
}

// A sequence that shares pages with others of the same root.
std::unique_ptr<Sequence> make_sharing(std::int64_t id, std::int64_t prompt, std::int64_t output,
                                       int block_size = 4) {
  auto sequence = make_sequence(id, prompt, output);
  sequence->prefix_root = std::make_shared<const std::string>("root");
  std::uint64_t hash = prefix_root_hash(*sequence->prefix_root);
  const auto size = static_cast<std::size_t>(block_size);
  for (std::size_t i = 0; i + size <= sequence->tokens.size(); i += size) {
    hash = prefix_page_hash(hash, std::span(sequence->tokens).subspan(i, size));
    sequence->page_hashes.push_back(hash);
  }
  return sequence;
}

// One step as the engine does it: a token for each sequence that has caught up. Returns how many
// tokens of prompts it computed.
std::int64_t step(Scheduler& scheduler) {
  std::vector<Sequence*> samples;
  std::int64_t num_prompt_tokens = 0;
  for (const ScheduledChunk& chunk : scheduler.schedule().chunks) {
    if (chunk.reaches_end() && chunk.sequence->wants_more()) samples.push_back(chunk.sequence);
    if (chunk.sequence->in_prompt(chunk.first)) num_prompt_tokens += chunk.num_tokens;
  }
  scheduler.complete_step();
  for (Sequence* sequence : samples) sequence->tokens.push_back(9);
  return num_prompt_tokens;
}

TEST_CASE("a prompt is read in chunks, then one token a step", "[scheduler]") {
  Scheduler scheduler(make_config(5, 4, 10));
  const auto sequence = make_sequence(1, 12, 3);
  scheduler.add(sequence.get());
  std::vector<std::int64_t> given;
  for (int i = 0; i < 5; ++i) {
    const StepPlan& plan = scheduler.schedule();
    REQUIRE(plan.chunks.size() == 1);
    given.push_back(plan.num_tokens);
    const bool samples = plan.chunks[0].reaches_end();
    scheduler.complete_step();
    if (samples) sequence->tokens.push_back(9);
  }
  CHECK(given == std::vector<std::int64_t>{5, 5, 2, 1, 1});
  CHECK(sequence->num_tokens() == sequence->max_num_tokens);
  CHECK(sequence->block_table.size() == 4);  // 14 computed tokens
  scheduler.remove(sequence.get());
  CHECK(scheduler.num_pages_in_use() == 0);
  CHECK(sequence->block_table.empty());
  CHECK(scheduler.schedule().chunks.empty());
}

TEST_CASE("sequences that generate go before a long prompt", "[scheduler]") {
  Scheduler scheduler(make_config(8, 4, 100));
  const auto longer = make_sequence(1, 100, 5);
  const auto shorter = make_sequence(2, 3, 5);
  scheduler.add(shorter.get());
  step(scheduler);
  scheduler.add(longer.get());
  const StepPlan& plan = scheduler.schedule();
  REQUIRE(plan.chunks.size() == 2);
  // By rank, which is the order of arrival; served is the generating one first.
  CHECK(plan.chunks[0].sequence == longer.get());
  CHECK(plan.chunks[0].num_tokens == 7);
  CHECK(plan.chunks[1].num_tokens == 1);
}

TEST_CASE("long prompts share a step evenly", "[scheduler]") {
  Scheduler scheduler(make_config(30, 4, 100));
  const auto a = make_sequence(1, 100, 5);
  const auto b = make_sequence(2, 4, 5);
  const auto c = make_sequence(3, 100, 5);
  for (Sequence* sequence : {a.get(), b.get(), c.get()}) scheduler.add(sequence);
  const StepPlan& plan = scheduler.schedule();
  REQUIRE(plan.chunks.size() == 3);
  CHECK(plan.chunks[0].num_tokens == 10);
  CHECK(plan.chunks[1].num_tokens == 4);
  CHECK(plan.chunks[2].num_tokens == 16);  // and what the second leaves
}

TEST_CASE("a long prompt takes a bounded part while another generates", "[scheduler]") {
  SchedulerConfig config = make_config(30, 4, 100);
  config.long_prefill_token_threshold = 6;
  Scheduler scheduler(config);
  const auto generating = make_sequence(1, 2, 50);
  const auto a = make_sequence(2, 60, 5);
  const auto b = make_sequence(3, 60, 5);
  scheduler.add(generating.get());
  step(scheduler);
  scheduler.add(a.get());
  scheduler.add(b.get());
  CHECK(scheduler.schedule().num_tokens == 1 + 6 + 6);
  scheduler.remove(generating.get());
  CHECK(scheduler.schedule().num_tokens == 30);
}

TEST_CASE("smaller priorities go first, then arrival", "[scheduler]") {
  Scheduler scheduler(make_config(8, 1, 100));
  const auto a = make_sequence(1, 4, 1);
  const auto b = make_sequence(2, 4, 1);
  const auto c = make_sequence(3, 4, 1);
  a->priority = 5;
  b->priority = -1;
  c->priority = -1;
  for (Sequence* sequence : {a.get(), c.get(), b.get()}) scheduler.add(sequence);
  std::vector<std::int64_t> order;
  for (int i = 0; i < 3; ++i) {
    Sequence* sequence = scheduler.schedule().chunks.at(0).sequence;
    order.push_back(sequence->id);
    scheduler.complete_step();
    scheduler.remove(sequence);
  }
  CHECK(order == std::vector<std::int64_t>{2, 3, 1});
}

TEST_CASE("the first in rank gets a token however small the budget", "[scheduler]") {
  Scheduler scheduler(make_config(2, 4, 100));
  const auto prompt = make_sequence(1, 20, 1);
  scheduler.add(prompt.get());
  std::vector<std::unique_ptr<Sequence>> others;
  for (int i = 0; i < 3; ++i) {
    others.push_back(make_sequence(2 + i, 1, 50));
    scheduler.add(others.back().get());
  }
  for (int i = 0; i < 19; ++i) {
    const std::int64_t before = prompt->num_computed_tokens;
    step(scheduler);
    REQUIRE(prompt->num_computed_tokens > before);
  }
}

TEST_CASE("a chunk ends with the prompt where the modes differ", "[scheduler]") {
  Scheduler scheduler(make_config(100, 4, 100));
  auto sequence = make_sequence(1, 10, 8);
  sequence->tokens.resize(14, 9);  // as after a restart
  sequence->prefill_topk = {3};
  SECTION("different") {
    sequence->decode_topk = {0};
    scheduler.add(sequence.get());
    CHECK(scheduler.schedule().num_tokens == 10);
    scheduler.complete_step();
    CHECK(scheduler.schedule().num_tokens == 4);
  }
  SECTION("equal") {
    sequence->decode_topk = {3};
    scheduler.add(sequence.get());
    CHECK(scheduler.schedule().num_tokens == 14);
  }
}

TEST_CASE("a sequence that can never fit is refused with the numbers", "[scheduler]") {
  Scheduler scheduler(make_config(8, 4, 3));
  const auto fits = make_sequence(1, 10, 3);      // 12 computed
  const auto too_long = make_sequence(2, 10, 4);  // 13 computed
  scheduler.add(fits.get());
  CHECK_THAT(message_of([&] { scheduler.add(too_long.get()); }),
             Contains("4 pages") && Contains("there are 3"));
  CHECK(scheduler.num_waiting() == 1);
}

TEST_CASE("removal gives pages back at any moment", "[scheduler]") {
  Scheduler scheduler(make_config(4, 4, 10));
  const auto a = make_sequence(1, 20, 3);
  const auto b = make_sequence(2, 20, 3);
  scheduler.add(a.get());
  scheduler.add(b.get());
  step(scheduler);
  CHECK(scheduler.num_pages_in_use() > 0);
  CHECK(scheduler.num_waiting() == 1);  // 12 pages in all
  scheduler.remove(b.get());
  CHECK(scheduler.num_waiting() == 0);
  scheduler.remove(a.get());
  CHECK(scheduler.num_pages_in_use() == 0);
  CHECK_THAT(message_of([&] { scheduler.remove(a.get()); }), Contains("not scheduled"));
}

TEST_CASE("who waits for a sequence that is preempted and then removed goes on", "[scheduler]") {
  Scheduler scheduler(make_config(16, 2, 100));
  auto reader = make_sharing(1, 60, 5);
  const auto follower = make_sharing(2, 60, 5);
  scheduler.add(reader.get());
  scheduler.add(follower.get());
  step(scheduler);
  const auto urgent = make_sequence(3, 4, 2);
  urgent->priority = -1;
  urgent->num_seats = 2;
  scheduler.add(urgent.get());
  step(scheduler);
  REQUIRE(urgent->is_running);
  REQUIRE_FALSE(reader->is_running);
  if (GENERATE(false, true)) {
    // Nobody waits for a sequence that waits itself.
    scheduler.remove(urgent.get());
    step(scheduler);
    CHECK(reader->is_running);
    CHECK(reader->num_computed_tokens == 32);
    scheduler.remove(reader.get());
    scheduler.remove(follower.get());
    return;
  }
  scheduler.remove(reader.get());
  reader.reset();
  step(scheduler);
  scheduler.remove(urgent.get());
  for (int i = 0; i < 6; ++i) step(scheduler);
  CHECK(follower->num_output_tokens() > 0);
  scheduler.remove(follower.get());
  CHECK(scheduler.num_pages_in_use() == 0);
}

TEST_CASE("the last of two that share a page needs no copy", "[scheduler]") {
  // The cache is full with the parent's pages; preempting the child frees none of them.
  Scheduler scheduler(make_config(16, 2, 3));
  const auto parent = make_sequence(1, 10, 3);
  const auto child = make_sequence(2, 10, 3);
  parent->num_seats = 2;
  scheduler.add(parent.get());
  step(scheduler);
  REQUIRE(parent->num_output_tokens() == 1);
  parent->tokens.pop_back();
  scheduler.fork(parent.get(), child.get());
  parent->tokens.push_back(9);
  child->tokens.push_back(8);
  for (Sequence* sequence : {parent.get(), child.get()}) {
    for (int i = 0; i < 10 && sequence->wants_more(); ++i) {
      const std::int64_t before = sequence->num_computed_tokens;
      step(scheduler);
      REQUIRE(sequence->num_computed_tokens > before);
    }
    scheduler.remove(sequence);
  }
  CHECK(scheduler.num_pages_in_use() == 0);
}

TEST_CASE("the first in rank reads what several share, whoever came first", "[scheduler]") {
  Scheduler scheduler(make_config(40, 4, 200));
  const auto slow = make_sharing(1, 400, 5);
  scheduler.add(slow.get());
  for (int i = 0; i < 3; ++i) step(scheduler);
  REQUIRE(slow->num_computed_tokens == 120);

  // A longer prompt with the same beginning, more urgent: it goes on where the other is.
  const auto urgent = make_sharing(2, 500, 5);
  urgent->priority = -1;
  scheduler.add(urgent.get());
  std::int64_t computed = 120;
  for (int i = 0; i < 5; ++i) {
    const std::int64_t before = urgent->num_computed_tokens;
    computed += step(scheduler);
    REQUIRE(urgent->num_computed_tokens == std::max<std::int64_t>(before, 120) + 40);
    REQUIRE(slow->num_computed_tokens >= before);  // follows a step behind
  }
  while (slow->num_output_tokens() == 0 || urgent->num_output_tokens() == 0) {
    computed += step(scheduler);
  }
  CHECK(urgent->num_cached_tokens == 120);
  CHECK(slow->num_cached_tokens == 396 - 120);
  CHECK(scheduler.stats().num_prefix_hit_tokens == 396);
  CHECK(scheduler.stats().num_prefix_lookup_tokens == 900);
  CHECK(computed == 500 + 4);  // every token of the common part once, and the last page's logits
  scheduler.remove(urgent.get());
  scheduler.remove(slow.get());
  CHECK(scheduler.num_pages_in_use() == 0);
}

TEST_CASE("who holds goes on when the reader is gone", "[scheduler]") {
  Scheduler scheduler(make_config(40, 4, 200));
  const auto slow = make_sharing(1, 400, 5);
  const auto urgent = make_sharing(2, 400, 5);
  const auto late = make_sharing(3, 400, 5);
  urgent->priority = -1;
  scheduler.add(slow.get());
  step(scheduler);
  scheduler.add(urgent.get());
  scheduler.add(late.get());
  step(scheduler);
  step(scheduler);
  CHECK(slow->is_held);
  CHECK_FALSE(late->is_running);
  scheduler.remove(urgent.get());
  step(scheduler);
  CHECK(slow->num_computed_tokens == 160);
  for (int i = 0; i < 6; ++i) step(scheduler);
  CHECK(slow->num_computed_tokens == 400);
  step(scheduler);
  CHECK(late->num_computed_tokens == 400);
  CHECK(late->num_cached_tokens == 396);
}

TEST_CASE("little in common is computed twice rather than waited for", "[scheduler]") {
  SchedulerConfig config = make_config(1000, 4, 400);
  config.long_prefill_token_threshold = 8;
  Scheduler scheduler(config);
  const auto generating = make_sequence(1, 2, 50);
  scheduler.add(generating.get());
  step(scheduler);
  const auto a = make_sharing(2, 100, 5);
  const auto b = make_sharing(3, 100, 5);
  scheduler.add(a.get());
  scheduler.add(b.get());
  step(scheduler);
  CHECK(b->is_running);
  CHECK(b->num_computed_tokens == 8);
  CHECK(b->block_table == a->block_table);  // equal pages became one
}

TEST_CASE("no one is preempted for a request that finds no room all the same", "[scheduler]") {
  Scheduler scheduler(make_config(100, 4, 20));
  const auto first = make_sequence(1, 50, 20);
  first->priority = -2;
  const auto last = make_sequence(2, 10, 20);
  last->priority = 1;
  scheduler.add(first.get());
  scheduler.add(last.get());
  step(scheduler);
  const auto big = make_sequence(3, 40, 5);  // 10 pages: 13 are the first's
  const auto small = make_sequence(4, 12, 5);
  scheduler.add(big.get());
  for (int i = 0; i < 3; ++i) step(scheduler);
  CHECK(last->is_running);
  CHECK(last->num_output_tokens() == 4);
  CHECK(scheduler.stats().num_preemptions == 0);
  scheduler.remove(big.get());
  // Where it does make room, it happens.
  small->priority = 0;
  scheduler.add(small.get());
  step(scheduler);
  CHECK(small->is_running);
  CHECK_FALSE(last->is_running);
  CHECK(scheduler.stats().num_preemptions == 1);
}

TEST_CASE("pages that others hold too make no room", "[scheduler]") {
  // The two of rank 1 share all their pages with the one that is not to be preempted.
  Scheduler scheduler(make_config(200, 4, 30));
  const auto first = make_sharing(1, 81, 4);
  first->priority = -2;
  scheduler.add(first.get());
  step(scheduler);
  const auto a = make_sharing(2, 81, 4);
  const auto b = make_sharing(3, 81, 4);
  a->priority = b->priority = 1;
  scheduler.add(a.get());
  scheduler.add(b.get());
  step(scheduler);
  REQUIRE(b->is_running);
  REQUIRE(scheduler.num_pages_in_use() == 20 + 3);
  const auto big = make_sequence(4, 40, 4);
  scheduler.add(big.get());
  for (int i = 0; i < 2; ++i) step(scheduler);
  CHECK(scheduler.stats().num_preemptions == 0);
  CHECK_FALSE(big->is_running);
}

TEST_CASE("a preempted sequence computes no full page again", "[scheduler]") {
  // Prompt and output have different attention.
  Scheduler scheduler(make_config(50, 2, 60));
  const auto sequence = make_sharing(1, 50, 40);
  sequence->prefill_topk = {3};
  sequence->decode_topk = {0};
  sequence->output_root = std::make_shared<const std::string>("output");
  scheduler.add(sequence.get());
  for (int i = 0; i < 30; ++i) step(scheduler);
  REQUIRE(sequence->num_computed_tokens == 79);
  const auto urgent = make_sequence(2, 10, 2);
  urgent->priority = -1;
  urgent->num_seats = 2;
  scheduler.add(urgent.get());
  step(scheduler);
  REQUIRE_FALSE(sequence->is_running);
  scheduler.remove(urgent.get());
  const StepPlan& plan = scheduler.schedule();
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].first == 76);
  CHECK(sequence->num_cached_tokens == 0);
  scheduler.complete_step();
  // Others do not take pages that another attention computed.
  const auto other = make_sharing(3, 79, 4);
  for (std::size_t i = 50; i < 79; ++i) other->tokens[i] = 9;
  other->page_hashes.clear();
  for (std::size_t i = 0; i < 19; ++i) {
    const PrefixKey key{&other->prefix_root, other->tokens, other->page_hashes};
    other->page_hashes.push_back(prefix_page_hash(key, i, 4));
  }
  scheduler.add(other.get());
  step(scheduler);
  CHECK(other->num_cached_tokens == 48);
}

}  // namespace
}  // namespace moba
