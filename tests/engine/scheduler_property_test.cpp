// Scheduler, allocator and prefix cache together, under random load: after every step each promise
// of their headers is checked against a model of who holds which page and of what each page holds.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/engine_test_util.h"
#include "tests/sanitizers.h"

namespace moba {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15U + b + 0x632BE59BD9B4E019U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  return x ^ (x >> 27);
}

// Always on and cheap, unlike Catch's assertions: there are millions of them.
void expect(bool condition, const char* what, std::int64_t id = -1) {
  if (condition) return;
  INFO("sequence " << id);
  FAIL(what);
}

// A sequence and what the scheduler must not see: the tokens to come, what its pages must hold.
struct Client {
  Sequence sequence;
  std::vector<std::int32_t> tokens;    // all real ones so far
  std::vector<std::uint64_t> content;  // [tokens computed]: of the slot of each
  std::int64_t deadline = 0;           // step
  int num_forks = 0;                   // to come when the prompt has been read
  bool scheduled = true;
  // When the step began.
  bool was_running = false;
  std::uint32_t block_table_version = 0;
  // Steps since it, or one before it in rank, got a token; and how many there may be.
  std::int64_t num_idle_steps = 0;
  std::int64_t max_idle_steps = 0;
};

class World {
 public:
  World(std::uint32_t seed, bool lagging) : random_(seed), lagging_(lagging) {
    config_.block_size = between(1, 9);
    config_.max_num_batched_tokens = between(1, 60);
    config_.max_num_seqs = between(1, 8);
    config_.num_pages = between(8, 60);
    config_.long_prefill_token_threshold = between(0, 10);
    config_.enable_prefix_caching = between(0, 5) != 0;
    scheduler_ = std::make_unique<Scheduler>(config_);
    slots_.assign(static_cast<std::size_t>(config_.num_pages * config_.block_size), 0);
  }

  void run(int count) {
    for (int i = 0; i < count; ++i) {
      if (clients_.size() < 16 && between(0, 2) == 0) arrive();
      leave_some();
      step();
    }
    // No more arrivals: all that is there ends.
    std::int64_t most_steps = 0;
    for (const auto& [id, client] : clients_) {
      most_steps += (client->num_forks + 1) * 4 * client->sequence.max_num_tokens;
    }
    for (std::int64_t i = 0; !clients_.empty(); ++i) {
      expect(i < 100 + most_steps, "what is left does not end");
      step();
    }
    step();
    expect(scheduler_->num_pages_in_use() == 0, "an idle engine holds pages");
    expect(scheduler_->num_waiting() == 0 && scheduler_->num_running() == 0, "ghosts");
    scheduler_->clear_cache();
    expect(scheduler_->allocator().num_free() == config_.num_pages, "the cache holds pages");
    expect(num_ended_ == num_arrived_, "not all have ended");
  }

  std::int64_t num_steps = 0;
  std::int64_t num_forked = 0;
  std::int64_t num_copies = 0;
  std::int64_t num_held = 0;
  SchedulerStats stats() const { return scheduler_->stats(); }

 private:
  int between(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<unsigned>(high - low + 1));
  }

  static bool before(const Sequence& a, const Sequence& b) {
    return a.priority != b.priority ? a.priority < b.priority : a.id < b.id;
  }

  void arrive() {
    const std::int64_t capacity = config_.num_pages * config_.block_size;
    auto client = std::make_unique<Client>();
    Sequence& s = client->sequence;
    s.id = next_id_;
    const int length = static_cast<int>(std::min<std::int64_t>(between(1, 140), capacity));
    // Prompts begin as one of a few documents and go their own way somewhere.
    const int document = between(0, 2);
    const int common = between(0, 1) == 0 ? length : between(0, length);
    for (int i = 0; i < length; ++i) {
      client->tokens.push_back(i < common ? document + 10 : between(0, 3));
    }
    s.tokens = client->tokens;
    s.num_prompt_tokens = length;
    s.max_num_tokens = std::min<std::int64_t>(length + between(0, 30), capacity + 1);
    s.priority = between(0, 1) == 0 ? between(-2, 2) : 0;
    s.prefill_topk = {between(0, 4) == 0 ? 1 : 0};
    s.decode_topk = {between(0, 3) == 0 ? 0 : s.prefill_topk[0]};
    s.wants_prompt_logprobs = between(0, 11) == 0;
    if (between(0, 5) == 0) client->num_forks = between(0, config_.max_num_seqs - 1);
    if (s.max_num_tokens == length) client->num_forks = 0;
    s.num_seats = 1 + client->num_forks;
    next_id_ += s.num_seats;
    client->deadline = between(0, 9) == 0 ? num_steps + between(0, 60) : INT64_MAX;
    if (between(0, 7) != 0) {
      const std::string salt = between(0, 5) == 0 ? "salt" : "";
      const std::string root = salt + std::to_string(s.prefill_topk[0]);
      s.prefix_root = std::make_shared<const std::string>(root);
      if (s.prefill_topk != s.decode_topk) {
        s.output_root = std::make_shared<const std::string>(
            root + "/" + std::to_string(length % config_.block_size));
      }
      for (int i = 0; i < length / config_.block_size; ++i) {
        const PrefixKey key{&s.prefix_root, s.tokens, s.page_hashes};
        s.page_hashes.push_back(
            prefix_page_hash(key, static_cast<std::size_t>(i), config_.block_size));
      }
    }
    scheduler_->add(&s);
    clients_.emplace(s.id, std::move(client));
    ++num_arrived_;
  }

  // Cancels and deadlines, at whatever point the sequence is.
  void leave_some() {
    std::vector<std::int64_t> ids;
    for (const auto& [id, client] : clients_) {
      if (client->deadline <= num_steps || between(0, 150) == 0) ids.push_back(id);
    }
    for (const std::int64_t id : ids) end(*clients_.at(id));
    if (!ids.empty()) check_holders();
  }

  void unschedule(Client& client) {
    if (client.scheduled) scheduler_->remove(&client.sequence);
    client.scheduled = false;
    expect(client.sequence.block_table.empty(), "pages after removal", client.sequence.id);
  }

  void end(Client& client) {
    unschedule(client);
    ++num_ended_;
    // A step under way may point to it.
    const auto it = clients_.find(client.sequence.id);
    left_.push_back(std::move(it->second));
    clients_.erase(it);
  }

  // What the slot of a token holds once it is computed: of all tokens up to it, with the attention
  // that computed each, and of the salt.
  std::uint64_t content_of(const Client& client, std::int64_t position) const {
    const Sequence& s = client.sequence;
    const auto p = static_cast<std::size_t>(position);
    const std::uint64_t context =
        p == 0 ? (s.prefix_root == nullptr ? 1 : s.prefix_root->size()) : client.content[p - 1];
    const std::int32_t mode = s.in_prompt(position) ? s.prefill_topk[0] : s.decode_topk[0];
    return mix(mix(context, static_cast<std::uint64_t>(client.tokens[p])),
               static_cast<std::uint64_t>(mode) + 100);
  }

  std::size_t slot(const Sequence& s, std::int64_t position) const {
    const std::int32_t page =
        s.block_table[static_cast<std::size_t>(position / config_.block_size)];
    return static_cast<std::size_t>(page * config_.block_size + position % config_.block_size);
  }

  void step() {
    for (const auto& [id, client] : clients_) {
      client->was_running = client->sequence.is_running;
      client->block_table_version = client->sequence.block_table_version;
    }
    const StepPlan& plan = scheduler_->schedule();
    check_plan(plan);
    check_idle_steps(plan);
    compute(plan);
    std::vector<ScheduledChunk> chunks = plan.chunks;
    std::vector<Sequence*> samples;
    for (const ScheduledChunk& chunk : chunks) {
      if (chunk.reaches_end() && chunk.sequence->wants_more()) samples.push_back(chunk.sequence);
    }
    scheduler_->complete_step();
    for (Sequence* sequence : samples) begin_token(*clients_.at(sequence->id));
    for (const ScheduledChunk& chunk : chunks) {
      Client& client = *clients_.at(chunk.sequence->id);
      const Sequence& s = client.sequence;
      if (!s.wants_more() && s.num_computed_tokens == s.num_tokens()) finish_later(client);
    }
    check_holders();
    check_contents();
    if (!lagging_) reveal();
    reveal();  // what the step before chose, or this one
    left_.clear();
    check_holders();
    ++num_steps;
  }

  void compute(const StepPlan& plan) {
    const std::int64_t size = config_.block_size;
    for (const PageCopy& copy : plan.copies) {
      std::copy_n(slots_.begin() + copy.from * size, size, slots_.begin() + copy.to * size);
    }
    num_copies += static_cast<std::int64_t>(plan.copies.size());
    for (const ScheduledChunk& chunk : plan.chunks) {
      Client& client = *clients_.at(chunk.sequence->id);
      for (std::int64_t p = 0; p < chunk.first; ++p) {
        expect(slots_[slot(*chunk.sequence, p)] == content_at(client, p),
               "a page does not hold what its sequence reads", chunk.sequence->id);
      }
      for (std::int64_t p = chunk.first; p < chunk.end(); ++p) {
        const auto page = static_cast<std::size_t>(p / config_.block_size);
        expect(scheduler_->allocator().num_holders(chunk.sequence->block_table[page]) == 1,
               "a page that others hold is written", chunk.sequence->id);
        slots_[slot(*chunk.sequence, p)] = content_at(client, p);
      }
      take_prompt_rows(chunk);
    }
  }

  std::uint64_t content_at(Client& client, std::int64_t position) {
    while (static_cast<std::int64_t>(client.content.size()) <= position) {
      client.content.push_back(
          content_of(client, static_cast<std::int64_t>(client.content.size())));
    }
    return client.content[static_cast<std::size_t>(position)];
  }

  // Log probabilities of the prompt come once each and in order.
  void take_prompt_rows(const ScheduledChunk& chunk) {
    Sequence& s = *chunk.sequence;
    if (!s.wants_prompt_logprobs) return;
    const std::int64_t last = std::min(chunk.end(), s.num_prompt_tokens - 1);
    if (chunk.end() > s.num_prompt_logprobs && s.num_prompt_logprobs < s.num_prompt_tokens - 1) {
      expect(chunk.first <= s.num_prompt_logprobs, "rows of the prompt are left out", s.id);
      s.num_prompt_logprobs = last;
    }
  }

  void begin_token(Client& client) {
    Sequence& s = client.sequence;
    for (; client.num_forks > 0; --client.num_forks) {
      auto child = std::make_unique<Client>(client);
      child->num_forks = 0;
      child->sequence.id = s.id + client.num_forks;
      child->sequence.num_seats = 1;
      child->sequence.block_table.clear();
      child->sequence.is_running = false;
      child->sequence.wants_prompt_logprobs = false;
      child->deadline = between(0, 5) == 0 ? num_steps + between(0, 20) : INT64_MAX;
      Client& added = *clients_.emplace(child->sequence.id, std::move(child)).first->second;
      scheduler_->fork(&s, &added.sequence);
      choose_token(added);
      ++num_arrived_;
      ++num_forked;
    }
    choose_token(client);
  }

  void choose_token(Client& client) {
    Sequence& s = client.sequence;
    client.tokens.push_back(between(0, 1));
    s.tokens.push_back(0);
    ++s.num_unknown_tokens;
    chosen_.push_back(s.id);
    // The last token is not computed.
    if (!s.wants_more()) unschedule(client);
  }

  // Nothing more is to be computed for it; it ends with the step's result.
  void finish_later(Client& client) {
    unschedule(client);
    chosen_.push_back(client.sequence.id);
  }

  // The step before has its results.
  void reveal() {
    for (const std::int64_t id : results_) {
      const auto it = clients_.find(id);
      if (it == clients_.end()) continue;
      Client& client = *it->second;
      Sequence& s = client.sequence;
      if (s.num_unknown_tokens > 0) {
        const auto index = static_cast<std::size_t>(s.num_known_tokens());
        s.tokens[index] = client.tokens[index];
        --s.num_unknown_tokens;
      }
      if (s.num_known_tokens() == s.max_num_tokens || between(0, 60) == 0) end(client);
    }
    results_ = std::move(chosen_);
    chosen_.clear();
  }

  void check_plan(const StepPlan& plan) {
    expect(plan.num_tokens <= config_.max_num_batched_tokens, "over the token budget");
    std::int64_t num_tokens = 0;
    std::set<const Sequence*> seen;
    bool generates = false;
    for (const ScheduledChunk& chunk : plan.chunks) {
      const Sequence& s = *chunk.sequence;
      expect(chunk.num_tokens >= 1 && chunk.first == s.num_computed_tokens &&
                 chunk.end() <= s.num_tokens(),
             "a chunk of wrong tokens", s.id);
      expect(static_cast<std::int64_t>(s.block_table.size()) ==
                 (chunk.end() + config_.block_size - 1) / config_.block_size,
             "pages that do not fit the chunk", s.id);
      expect(seen.insert(&s).second && s.is_running && !s.is_held, "who computes", s.id);
      expect(!s.in_prompt(chunk.first) || s.prefill_topk == s.decode_topk ||
                 chunk.end() <= s.num_prompt_tokens,
             "two attentions in a chunk", s.id);
      num_tokens += chunk.num_tokens;
      generates = generates || (chunk.num_tokens == 1 && chunk.reaches_end());
    }
    expect(num_tokens == plan.num_tokens, "the plan's sum");
    if (config_.long_prefill_token_threshold > 0 && generates) {
      for (const ScheduledChunk& chunk : plan.chunks) {
        expect(chunk.num_tokens <= config_.long_prefill_token_threshold,
               "a long prompt takes more than its share", chunk.sequence->id);
      }
    }
    int seats = 0;
    const Sequence* first = nullptr;
    const Sequence* preempted = nullptr;  // the first in rank
    bool any = false;
    for (const auto& [id, client] : clients_) {
      const Sequence& s = client->sequence;
      any = any || client->scheduled;
      if (s.is_held) ++num_held;
      if (client->was_running && !s.is_running && client->scheduled &&
          (preempted == nullptr || before(s, *preempted))) {
        preempted = &s;
      }
      if (!s.is_running) continue;
      seats += s.num_seats;
      if (first == nullptr || before(s, *first)) first = &s;
    }
    expect(seats <= config_.max_num_seqs, "too many sequences");
    expect(!any || first != nullptr, "nobody runs");
    expect(first == nullptr || seen.count(first) == 1, "the first in rank gets no token");
    for (const auto& [id, client] : clients_) {
      // One whose block table has changed may have been preempted too, and admitted again.
      const bool ran_on = client->was_running && client->sequence.is_running &&
                          client->sequence.block_table_version == client->block_table_version;
      expect(preempted == nullptr || !ran_on || before(client->sequence, *preempted),
             "one was preempted before another behind it", id);
    }
  }

  // Nobody starves: while neither a sequence nor one before it gets a token, those behind it that
  // ran when that began come to their end, and no other is admitted.
  void check_idle_steps(const StepPlan& plan) {
    const Sequence* first = nullptr;
    for (const ScheduledChunk& chunk : plan.chunks) {
      if (first == nullptr || before(*chunk.sequence, *first)) first = chunk.sequence;
    }
    for (const auto& [id, client] : clients_) {
      if (!client->scheduled) continue;
      if (first == nullptr || !before(client->sequence, *first)) {
        client->num_idle_steps = 0;
        continue;
      }
      if (client->num_idle_steps++ == 0) {
        client->max_idle_steps = 1;
        for (const auto& [other_id, other] : clients_) {
          const Sequence& o = other->sequence;
          if (!o.is_running) continue;
          client->max_idle_steps += (o.max_num_tokens - o.num_computed_tokens) * o.num_seats;
        }
      }
      expect(client->num_idle_steps <= client->max_idle_steps, "a sequence starves", id);
    }
  }

  void check_holders() {
    std::vector<std::int32_t> holders(static_cast<std::size_t>(config_.num_pages), 0);
    for (const auto& [id, client] : clients_) {
      expect(client->sequence.is_running || client->sequence.block_table.empty(),
             "one that waits holds pages", id);
      for (const std::int32_t page : client->sequence.block_table) {
        ++holders[static_cast<std::size_t>(page)];
      }
    }
    std::int64_t in_use = 0;
    std::int32_t num_free = 0;
    for (std::int32_t page = 0; page < config_.num_pages; ++page) {
      const std::int32_t held = holders[static_cast<std::size_t>(page)];
      const std::int32_t cached = scheduler_->cache().is_cached(page) ? 1 : 0;
      expect(scheduler_->allocator().num_holders(page) == held + cached,
             "the count of a page's holders is wrong");
      if (held > 0) ++in_use;
      if (held + cached == 0) ++num_free;
    }
    expect(scheduler_->num_pages_in_use() == in_use, "pages in use");
    expect(scheduler_->allocator().num_free() == num_free, "free pages");
  }

  void check_contents() {
    for (const auto& [id, client] : clients_) {
      const Sequence& s = client->sequence;
      if (!s.is_running) continue;
      for (std::int64_t p = 0; p < s.num_computed_tokens; ++p) {
        expect(slots_[slot(s, p)] == content_at(*client, p), "a page lost what it held", id);
      }
    }
  }

  std::mt19937 random_;
  const bool lagging_;
  SchedulerConfig config_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::uint64_t> slots_;  // [num_pages * block_size]
  std::map<std::int64_t, std::unique_ptr<Client>> clients_;
  std::vector<std::unique_ptr<Client>> left_;
  std::vector<std::int64_t> chosen_;   // got a token in the last step, or ended with it
  std::vector<std::int64_t> results_;  // in the step before, where results lag
  std::int64_t next_id_ = 0;
  std::int64_t num_arrived_ = 0;
  std::int64_t num_ended_ = 0;
};

TEST_CASE("random load: scheduler, allocator and prefix cache keep their promises", "[property]") {
  // 60 x 2 x 2,500 steps, and what it takes to end; 60 x 2 x 100 under a sanitizer.
  const int num_steps = kSanitized ? 100 : 2500;
  std::int64_t steps = 0;
  std::int64_t preemptions = 0;
  std::int64_t hits = 0;
  std::int64_t forks = 0;
  std::int64_t copies = 0;
  std::int64_t held = 0;
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    for (const bool lagging : {false, true}) {
      CAPTURE(seed, lagging);
      World world(seed, lagging);
      world.run(num_steps);
      steps += world.num_steps;
      preemptions += world.stats().num_preemptions;
      hits += world.stats().num_prefix_hit_tokens;
      forks += world.num_forked;
      copies += world.num_copies;
      held += world.num_held;
    }
  }
  // It did happen.
  CHECK(steps >= 120 * num_steps);
  CHECK(preemptions > steps / 100);
  CHECK(hits > steps / 2);
  CHECK(forks > steps / 200);
  CHECK(copies > steps / 200);
  if (!kSanitized) CHECK(held > 10);
}

}  // namespace
}  // namespace moba
