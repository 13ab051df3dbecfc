// The engine over two GPUs against the engine over one. Machines with one GPU have nothing to test.
#include <algorithm>
#include <string>
#include <vector>

#include "device/device_info.h"
#include "engine/logging.h"
#include "tests/engine/parallel_requests.h"

namespace moba::test {
namespace {

EngineConfig config_of(int num_ranks) {
  engine_logger()->set_level(spdlog::level::warn);
  EngineConfig config;
  config.model = kParallelModelDir;
  config.device = "cuda";
  config.dtype = ComputeDType::kFloat32;
  config.max_model_len = 4096;
  config.cache.memory_bytes = std::int64_t{256} << 20;
  config.parallel.tensor_parallel_size = num_ranks;
  return config;
}

// Rows that are drawn from the whole vocabulary, beside greedy ones.
std::vector<RequestOutput> draw(Engine& engine) {
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 12; ++i) {
    Request request;
    request.prompt_ids = needle_ids(static_cast<std::size_t>(200 + i));
    request.sampling.max_tokens = 24;
    request.sampling.ignore_eos = true;
    request.sampling.temperature = i % 4 == 0 ? 0.0F : 0.8F;
    request.sampling.top_p = i % 4 == 1 ? 1.0F : 0.9F;
    request.sampling.seed = static_cast<std::uint64_t>(i);
    auto handle = engine.submit(request);
    REQUIRE(handle.ok());
    handles.push_back(handle.value());
  }
  std::vector<RequestOutput> outputs;
  for (const RequestHandle& handle : handles) {
    INFO(handle.wait().status().message());
    REQUIRE(handle.wait().ok());
    outputs.push_back(handle.wait().value());
  }
  return outputs;
}

}  // namespace

TEST_CASE("the engine over two GPUs gives what it gives over one") {
  if (num_cuda_devices() < 2) {
    WARN("SKIPPED: one GPU");
    return;
  }
  std::vector<RequestOutput> expected;
  std::vector<RequestOutput> drawn;
  {
    const auto one = make_engine(config_of(1));
    expected = run_all(*one, 40);
    drawn = draw(*one);
  }
  for (const std::int64_t peer_bytes : {std::int64_t{0}, std::int64_t{512} << 10}) {
    CAPTURE(peer_bytes);
    EngineConfig config = config_of(2);
    config.parallel.peer_message_bytes = peer_bytes;
    // Prompts in two parts, decode steps, which are recorded, as a whole.
    config.parallel.min_overlapped_tokens = peer_bytes > 0 ? 100 : 0;
    const auto two = make_engine(config);
    CHECK(two->info().tensor_parallel_size == 2);
    check_same(run_all(*two, 40), expected);
    // Once more, now with the prefixes in the cache.
    check_same(run_all(*two, 40), expected);
    CHECK(two->stats().num_prefix_hit_tokens > 0);
    const std::vector<RequestOutput> got = draw(*two);
    int num_same = 0;
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      num_same += got[i].token_ids == drawn[i].token_ids ? 1 : 0;
    }
    // Logits differ in their last bits, so that a draw may fall to the other side of a boundary.
    CHECK(num_same >= static_cast<int>(drawn.size()) - 1);
  }
}

}  // namespace moba::test
