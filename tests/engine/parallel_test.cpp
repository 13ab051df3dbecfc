// Ranks that compute together: sampling from pieces of rows, threads that fail, and the engine over
// several ranks against the engine over one.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "engine/engine_setup.h"
#include "engine/logging.h"
#include "engine/sharded_sampling.h"
#include "engine/status_error.h"
#include "engine/worker.h"
#include "moba/engine.h"
#include "tests/device/rank_threads.h"
#include "tests/engine/engine_test_util.h"
#include "tests/engine/parallel_requests.h"

namespace moba {
namespace {

using Clock = std::chrono::steady_clock;
using test::check_same;
using test::make_engine;
using test::run_all;

// ---- sampling

ShardPlan vocab_plan(std::int64_t vocab, int rank, int num_ranks) {
  ModelConfig config;
  config.num_q_heads = config.num_kv_heads = num_ranks;
  config.intermediate_size = num_ranks;
  config.vocab_size = vocab;
  return make_shard_plan(config, rank, num_ranks);
}

struct Rows {
  std::vector<std::vector<float>> logits;
  std::vector<Sequence> sequences;
  std::vector<SampleRow> sample_rows;
};

Rows random_rows(std::int64_t vocab, unsigned seed) {
  std::mt19937 random(seed);
  Rows rows;
  const int count = 1 + static_cast<int>(random() % 20);
  rows.sequences.resize(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    std::vector<float> row(static_cast<std::size_t>(vocab));
    // Coarse values, so that there are ties within and between pieces.
    std::normal_distribution<float> normal(0, 2);
    for (float& x : row) x = std::round(normal(random) * 8) / 8;
    if (random() % 4 == 0) {
      for (float& x : row) x = std::round(x);
    }
    SamplingParams params;
    params.seed = random();
    switch (random() % 5) {
      case 0:
      case 1:
        params.temperature = 0;
        break;
      case 2:
        params.top_k = 1 + static_cast<int>(random() % 40);
        if (random() % 2 == 0) params.top_p = 0.8F;
        break;
      case 3:
        params.top_p = 0.9F;
        break;
      default:
        if (random() % 2 == 0) params.min_p = 0.1F;
    }
    if (random() % 3 == 0) params.repetition_penalty = 1.3F;
    if (random() % 3 == 0) params.presence_penalty = 0.7F;
    if (random() % 3 == 0) {
      for (int b = 0; b < 5; ++b) {
        params.logit_bias[static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab))] = 3;
      }
    }
    if (random() % 2 == 0) params.logprobs = static_cast<int>(random() % 6);
    if (random() % 4 == 0) params.min_tokens = 5;
    const std::vector<std::int32_t> eos{static_cast<std::int32_t>(vocab - 1)};
    std::vector<std::int32_t> prompt;
    for (int t = 0; t < 30; ++t) {
      prompt.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab)));
    }
    Sequence& sequence = rows.sequences[static_cast<std::size_t>(i)];
    sequence.sampling = make_sampling_state(params, vocab, eos, prompt, random());
    sequence.sampling.add_output_token(prompt[0]);
    sequence.tokens = prompt;
    rows.logits.push_back(std::move(row));
    rows.sample_rows.push_back({i, &sequence, static_cast<std::int64_t>(random() % 1000)});
  }
  // Errors belong to their row alone.
  if (seed % 3 == 0) {
    rows.logits[0][static_cast<std::size_t>(vocab / 2)] = std::nanf("");
  }
  return rows;
}

// This rank's piece of each row, one after the other.
std::vector<float> piece_of(const Rows& rows, const ShardPlan& shard) {
  std::vector<float> piece;
  for (const auto& row : rows.logits) {
    piece.insert(piece.end(), row.begin() + shard.vocab.begin, row.begin() + shard.vocab.end);
  }
  return piece;
}

struct Sampled {
  std::vector<SampledToken> tokens;
  std::vector<std::string> errors;
};

Sampled sample_on_one(const Rows& rows) {
  Sampled result;
  for (std::size_t i = 0; i < rows.logits.size(); ++i) {
    std::vector<float> row = rows.logits[i];
    result.errors.push_back(message_of([&] {
      Sampler sampler;
      result.tokens.push_back(sampler.sample(row, rows.sample_rows[i].sequence->sampling,
                                             rows.sample_rows[i].position));
    }));
    result.tokens.resize(i + 1);
  }
  return result;
}

TEST_CASE("sampling from pieces gives the tokens of whole rows", "[parallel]") {
  for (unsigned seed = 0; seed < 30; ++seed) {
    for (const std::int64_t vocab : {131, 4096}) {
      const Rows rows = random_rows(vocab, seed);
      const Sampled expected = sample_on_one(rows);
      for (const int num_ranks : {2, 3, 4}) {
        CAPTURE(seed, vocab, num_ranks);
        Sampled got;
        got.tokens.resize(rows.logits.size());
        got.errors.assign(rows.logits.size(), "not taken");
        test::on_ranks(num_ranks, [&](int rank, std::unique_ptr<Communicator> group) {
          ThreadPool pool(1);
          const ShardPlan shard = vocab_plan(vocab, rank, num_ranks);
          ShardedSampler sampler(*group, pool, shard, vocab);
          std::vector<float> piece = piece_of(rows, shard);
          sampler.sample(rows.sample_rows, piece.data(),
                         [&](std::size_t i, SampledToken token, std::string error) {
                           got.tokens[i] = std::move(token);
                           got.errors[i] = error.empty() ? "no error" : error;
                         });
        });
        for (std::size_t i = 0; i < rows.logits.size(); ++i) {
          CAPTURE(i);
          CHECK(got.errors[i] == expected.errors[i]);
          if (expected.errors[i] != "no error") continue;
          const SampledToken& a = got.tokens[i];
          const SampledToken& b = expected.tokens[i];
          CHECK(a.token_id == b.token_id);
          REQUIRE(a.has_logprob == b.has_logprob);
          if (!a.has_logprob) continue;
          CHECK(a.logprob.token_id == b.logprob.token_id);
          CHECK(a.logprob.logprob == Approx(b.logprob.logprob).margin(1e-6));
          REQUIRE(a.logprob.top.size() == b.logprob.top.size());
          for (std::size_t t = 0; t < a.logprob.top.size(); ++t) {
            CHECK(a.logprob.top[t].first == b.logprob.top[t].first);
            CHECK(a.logprob.top[t].second == Approx(b.logprob.top[t].second).margin(1e-6));
          }
        }
      }
    }
  }
}

TEST_CASE("log probabilities of a prompt from pieces of rows", "[parallel]") {
  const std::int64_t vocab = 131;
  const Rows rows = random_rows(vocab, 4);
  std::vector<std::int32_t> targets;
  for (const auto& row : rows.logits) {
    targets.push_back(static_cast<std::int32_t>(std::fabs(row[0]) * 100) % 131);
  }
  std::vector<TokenLogprob> got(rows.logits.size());
  std::vector<std::string> errors(rows.logits.size());
  test::on_ranks(4, [&](int rank, std::unique_ptr<Communicator> group) {
    ThreadPool pool(1);
    const ShardPlan shard = vocab_plan(vocab, rank, 4);
    ShardedSampler sampler(*group, pool, shard, vocab);
    sampler.prompt_logprobs(piece_of(rows, shard).data(), targets, 4,
                            [&](std::size_t i, TokenLogprob logprob, std::string error) {
                              if (rank != 2) return;  // they all have the same
                              errors[i] = std::move(error);
                              got[i] = std::move(logprob);
                            });
  });
  for (std::size_t i = 0; i < rows.logits.size(); ++i) {
    LogprobWorkspace workspace;
    const TokenLogprob expected = compute_logprob(rows.logits[i], targets[i], 4, workspace);
    CHECK(errors[i].empty());
    CHECK(got[i].token_id == expected.token_id);
    CHECK(got[i].logprob == Approx(expected.logprob).margin(1e-6));
    REQUIRE(got[i].top.size() == 4);
    for (std::size_t t = 0; t < 4; ++t) CHECK(got[i].top[t].first == expected.top[t].first);
  }
}

// ---- threads of ranks

struct Group {
  explicit Group(int num_ranks, std::chrono::milliseconds limit = std::chrono::milliseconds(0))
      : ends(cpu::make_thread_communicators(num_ranks, false)),
        control(ends.front()->control()),
        workers(0, num_ranks, false) {
    WorkerGroup::Watch watch;
    watch.abort = [this](const std::string& why) { control->abort(why); };
    watch.progress = [this](int rank) { return control->num_operations(rank); };
    watch.limit = limit;
    workers.set_watch(watch);
  }
  Communicator& end(int rank) { return *ends[static_cast<std::size_t>(rank)]; }

  std::vector<std::unique_ptr<Communicator>> ends;
  std::shared_ptr<GroupControl> control;
  WorkerGroup workers;
};

TEST_CASE("a rank that fails ends the step with its line", "[parallel]") {
  Group group(3);
  std::atomic<int> runs{0};
  for (int step = 0; step < 50; ++step) {
    group.workers.step("step 1", [&](int rank) {
      group.end(rank).barrier();
      ++runs;
    });
  }
  CHECK(runs == 150);
  const auto start = Clock::now();
  const std::string message = message_of([&] {
    group.workers.step("step 51", [&](int rank) {
      if (rank == 1) throw Error("its device is on fire");
      group.end(rank).barrier();
    });
  });
  CHECK(message == "rank 1 failed in step 51: its device is on fire");
  CHECK(Clock::now() - start < std::chrono::seconds(5));
  CHECK(group.control->why_aborted() == message);
  CHECK_THROWS_AS(group.workers.step("step 52", [&](int rank) { group.end(rank).barrier(); }),
                  RankFailure);
}

TEST_CASE("a rank that stalls ends the step within its time", "[parallel]") {
  Group group(3, std::chrono::milliseconds(400));
  // Slow is not stalled.
  group.workers.step("step 1", [&](int rank) {
    for (int i = 0; i < 5; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(150));
      group.end(rank).barrier();
    }
  });
  const auto start = Clock::now();
  const std::string message = message_of([&] {
    group.workers.step("step 2", [&](int rank) {
      group.end(rank).barrier();
      // Comes back only when it is told to.
      while (rank == 2 && group.control->why_aborted().empty()) std::this_thread::yield();
      group.end(rank).barrier();
    });
  });
  CHECK(message == "rank 2 stalled in step 2: it has not come along for 0.4 s");
  CHECK(Clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("errors outside of steps are passed on as they are", "[parallel]") {
  Group group(2);
  try {
    group.workers.call([&](int rank) {
      if (rank == 1) throw StatusError(StatusCode::kInvalidCheckpoint, "tensor x is missing");
      group.end(rank).barrier();
    });
    FAIL("no error");
  } catch (const StatusError& error) {
    CHECK(error.code() == StatusCode::kInvalidCheckpoint);
    CHECK(std::string(error.what()) == "tensor x is missing");
  }
}

// ---- the engine

EngineConfig embedded_config(int num_ranks) {
  engine_logger()->set_level(spdlog::level::warn);
  EngineConfig config;
  config.model = test::kParallelModelDir;
  config.device = "cpu";
  config.dtype = ComputeDType::kFloat32;
  config.max_model_len = 2048;
  config.num_threads = 2;
  config.parallel.tensor_parallel_size = num_ranks;
  return config;
}

TEST_CASE("the engine over two ranks gives what it gives over one", "[parallel]") {
  const auto one = make_engine(embedded_config(1));
  const std::vector<RequestOutput> expected = run_all(*one);

  const auto two = make_engine(embedded_config(2));
  CHECK(two->info().tensor_parallel_size == 2);
  CHECK(two->info().num_threads == 2);
  CHECK(static_cast<double>(two->info().weight_bytes) <=
        1.05 / 2 * static_cast<double>(one->info().weight_bytes));
  CHECK(two->info().kv_bytes_per_token * 2 == one->info().kv_bytes_per_token);
  check_same(run_all(*two), expected);
  // Once more, now with the prefixes in the cache.
  check_same(run_all(*two), expected);
  CHECK(two->stats().num_prefix_hit_tokens > 0);
  CHECK(two->stats().num_pages_in_use == 0);
}

TEST_CASE("the engine over two ranks, in two parts where ranks sum", "[parallel]") {
  const std::vector<RequestOutput> expected = run_all(*make_engine(embedded_config(1)));
  EngineConfig config = embedded_config(2);
  config.parallel.min_overlapped_tokens = 3;  // of decode steps too, as requests run side by side
  check_same(run_all(*make_engine(config)), expected);
  config.parallel.min_overlapped_tokens = 600;
  check_same(run_all(*make_engine(config)), expected);
  config.parallel.min_overlapped_tokens = -1;
  CHECK_THAT(Engine::create(config).status().message(),
             Contains("min_overlapped_tokens is -1, less than 0"));
}

TEST_CASE("the engine over two ranks, short of pages", "[parallel]") {
  const std::vector<RequestOutput> expected = run_all(*make_engine(embedded_config(1)), 120);
  EngineConfig config = embedded_config(2);
  config.max_model_len = 1024;
  config.scheduler.max_num_batched_tokens = 200;
  config.cache.enable_prefix_caching = false;
  config.cache.block_size = 16;
  // Pages for the first three prompts, but not for what they generate.
  config.cache.memory_bytes = 76LL * 10 * (2 * 16 + 1) * 64 * 4;
  const auto two = make_engine(config);
  CHECK(two->info().num_pages == 76);
  check_same(run_all(*two, 120), expected);
  CHECK(two->stats().num_preemptions > 0);
}

TEST_CASE("numbers of ranks that cannot work are refused", "[parallel]") {
  const auto refused = [](int num_ranks) {
    const auto engine = Engine::create(embedded_config(num_ranks));
    REQUIRE_FALSE(engine.ok());
    CHECK(engine.status().code() == StatusCode::kInvalidArgument);
    return engine.status().message();
  };
  CHECK_THAT(refused(0), Contains("tensor_parallel_size is 0"));
  CHECK_THAT(refused(-3), Contains("tensor_parallel_size is -3"));
  CHECK_THAT(refused(4), Contains("4 does not divide the model's 6 query heads"));
  CHECK_THAT(refused(3), Contains("3 neither divides the model's 2 KV heads"));
  EngineConfig config = embedded_config(2);
  config.parallel.rank_timeout_seconds = -1;
  CHECK_THAT(Engine::create(config).status().message(), Contains("rank_timeout_seconds is -1"));
}

TEST_CASE("a checkpoint that fails on the ranks is refused once", "[parallel]") {
  EngineConfig config = embedded_config(2);
  config.max_model_len = 1 << 20;
  const auto engine = Engine::create(config);
  REQUIRE_FALSE(engine.ok());
  CHECK(engine.status().code() == StatusCode::kInvalidArgument);
  CHECK_THAT(engine.status().message(), Contains("1048576"));
}

}  // namespace
}  // namespace moba
