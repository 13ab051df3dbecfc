// Steps that overlap, and what the core counts.
#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "tests/engine/core_fixture.h"

namespace moba {
namespace {

TEST_CASE("with asynchronous steps every request gets the same tokens", "[engine_core]") {
  using Steps = HashRunner::Steps;
  for (const Steps steps : {Steps::kWhenCollected, Steps::kOnThread}) {
    EngineCoreConfig config = small_config(60, 16, 4);
    Fixture f(config, steps);
    std::map<std::int64_t, Request> requests;
    for (std::uint32_t i = 0; i < 12; ++i) {
      Request request = make_request(1 + 9 * i, static_cast<int>(1 + 3 * (i % 5)), i);
      if (i % 3 == 1) request.attention.mode = AttentionMode::kFull;
      if (i % 3 == 2) request.attention.decode = DecodeAttention::kFull;
      if (i % 4 == 0) request.sampling.presence_penalty = 1;
      requests.emplace(f.submit(request), request);
    }
    f.run();
    for (const auto& [id, request] : requests) {
      CAPTURE(id);
      CHECK(f.output(id).token_ids == f.expected(request, *request.sampling.max_tokens));
      CHECK(f.output(id).finish_reason == FinishReason::kLength);
    }
    CHECK(f.core->stats().num_pages_in_use == 0);
  }
}

TEST_CASE("a step is launched while the one before it is computed", "[engine_core]") {
  Fixture f(small_config(), HashRunner::Steps::kWhenCollected);
  int launched = 0;
  f.runner->on_batch = [&](const Batch&) { ++launched; };
  std::vector<int> launched_at_token;
  Callbacks callbacks;
  callbacks.on_token = [&](const TokenEvent&) {
    launched_at_token.push_back(launched);
    return true;
  };
  const Request request = make_request(10, 4);
  const std::int64_t id = f.submit(request, callbacks);
  SECTION("tokens feed back without the host") {
    f.run();
    // The last token is known to be the last: no step more.
    CHECK(launched_at_token == std::vector<int>{2, 3, 4, 4});
    CHECK(launched == 4);
  }
  SECTION("cancelled while a step is under way") {
    f.core->step();
    f.core->step();
    f.core->cancel(id);
    CHECK(f.core->stats().num_pages_in_use == 0);
    const Request other = make_request(30, 8, 4);
    const std::int64_t b = f.submit(other);
    f.run();
    CHECK(f.output(b).token_ids == f.expected(other, 8));
    CHECK(f.output(id).token_ids == f.expected(request, 1));
  }
  CHECK(f.output(id).prompt_ids == request.prompt_ids);
  CHECK_FALSE(f.core->has_work());
}

TEST_CASE("what a sequence's end leaves of the step under way is dropped", "[engine_core]") {
  Fixture f(small_config(), HashRunner::Steps::kWhenCollected);
  Request request = make_request(10, 20);
  const std::vector<std::int32_t> expected = f.expected(request, 20);
  request.sampling.stop_token_ids = {expected[4]};
  request.sampling.n = 3;
  const std::int64_t id = f.submit(request);
  f.run();
  const auto stop = std::find(expected.begin(), expected.end(), expected[4]);
  CHECK(f.output(id).token_ids == std::vector<std::int32_t>(expected.begin(), stop + 1));
  CHECK(f.output(id).finish_reason == FinishReason::kStop);
  CHECK(f.core->stats().num_pages_in_use == 0);
}

TEST_CASE("a step that fails after its launch takes those with it that run", "[engine_core]") {
  Fixture f(small_config(50, 16, 2), HashRunner::Steps::kWhenCollected);
  const Request waits = make_request(30, 5, 7);
  const std::int64_t a = f.submit(make_request(30, 20));
  const std::int64_t b = f.submit(make_request(30, 20, 2));
  const std::int64_t c = f.submit(waits);
  f.runner->steps_to_failure = 5;
  f.run();
  CHECK(f.outcomes.at(a).status().message() == "the device is gone");
  CHECK(f.outcomes.at(b).status().message() == "the device is gone");
  CHECK(f.output(c).token_ids == f.expected(waits, 5));
  CHECK(f.core->stats().num_pages_in_use == 0);
  CHECK(f.core->stats().num_failed == 2);
  // Nothing of what failed is in the cache.
  const std::int64_t computed = f.runner->num_computed;
  const std::int64_t d = f.submit(make_request(30, 1));
  f.run();
  CHECK(f.output(d).token_ids.size() == 1);
  CHECK(f.runner->num_computed == computed + 30);
}

TEST_CASE("counters and latencies", "[engine_core]") {
  Fixture f(small_config(100, 64, 8));
  const Request request = make_request(41, 6);
  f.submit(request);
  f.run();
  f.submit(request);
  Request late = make_request(20, 5, 3);
  late.timeout_seconds = 0;
  f.submit(late);
  f.core->expire(Clock::now());
  f.core->cancel(f.submit(make_request(20, 5, 4)));
  f.run();
  const EngineStats stats = f.core->stats();
  CHECK(stats.num_pages == 100);
  CHECK(stats.num_finished == 4);
  CHECK(stats.num_expired == 1);
  CHECK(stats.num_cancelled == 1);
  CHECK(stats.num_failed == 0);
  CHECK(stats.num_output_tokens == 12);
  CHECK(stats.num_prefix_lookup_tokens == 82);
  CHECK(stats.num_prefix_hit_tokens == 40);
  CHECK(stats.time_to_first_token.count() == 2);
  CHECK(stats.inter_token.count() == 10);
  CHECK(stats.end_to_end.count() == 2);
  CHECK(stats.queue_time.count() == 2);
  CHECK(stats.step_time.count() == stats.num_steps);
  CHECK(stats.end_to_end.sum_seconds() >= stats.time_to_first_token.sum_seconds());
  const MobaBlockCounts all = count_moba_blocks(0, 46, 8, 2);
  const MobaBlockCounts cached = count_moba_blocks(0, 40, 8, 2);
  CHECK(stats.moba_blocks_attended == 3 * (2 * all.attended - cached.attended));
  CHECK(stats.moba_blocks_available == 3 * (2 * all.available - cached.available));
}

TEST_CASE("latency histograms", "[stats]") {
  LatencyHistogram histogram;
  CHECK(histogram.quantile(0.5) == 0);
  for (int i = 0; i + 1 < LatencyHistogram::kNumBuckets - 1; ++i) {
    CHECK(LatencyHistogram::upper_bound(i + 1) <= 1.25 * LatencyHistogram::upper_bound(i));
  }
  for (int i = 1; i <= 1000; ++i) histogram.add(1e-3 * i);
  CHECK(histogram.count() == 1000);
  CHECK(histogram.sum_seconds() == Approx(500.5));
  for (const double q : {0.01, 0.25, 0.5, 0.9, 0.99, 1.0}) {
    CHECK(histogram.quantile(q) == Approx(q).epsilon(0.251));
  }
  std::int64_t below = 0;
  for (int i = 0; i < LatencyHistogram::kNumBuckets; ++i) {
    below += histogram.bucket_count(i);
    const double bound = LatencyHistogram::upper_bound(i);
    if (bound < 1) CHECK(below == static_cast<std::int64_t>(std::ceil(1000 * bound - 1e-9)) - 1);
  }
  LatencyHistogram extremes;
  extremes.add(-1);
  extremes.add(0);
  extremes.add(1e9);
  CHECK(extremes.bucket_count(0) == 2);
  CHECK(extremes.bucket_count(LatencyHistogram::kNumBuckets - 1) == 1);
  CHECK(extremes.quantile(0.1) < 1e-5);
}

}  // namespace
}  // namespace moba
