#include "engine/memory_plan.h"

#include <functional>

#include "engine/host_memory.h"
#include "engine/status_error.h"
#include "tests/engine/engine_test_util.h"

namespace moba {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

MemoryPlanInput base_input() {
  MemoryPlanInput input;
  input.weight_bytes = 40 * kMiB;
  input.workspace_bytes = 60 * kMiB;
  input.available_bytes = 1100 * kMiB;
  input.page_bytes = kMiB;
  input.block_size = 64;
  input.default_model_len = 4096;
  input.longest_model_len = 8192;
  return input;
}

Status status_of(const MemoryPlanInput& input) {
  try {
    plan_memory(input);
  } catch (const StatusError& error) {
    return Status(error.code(), error.what());
  }
  return {};
}

TEST_CASE("one sequence of the checkpoint's length by default", "[memory_plan]") {
  const MemoryPlan plan = plan_memory(base_input());
  CHECK(plan.num_pages == 64);
  CHECK(plan.max_model_len == 4096);
  CHECK(plan.kv_cache_bytes == 64 * kMiB);
}

TEST_CASE("by default several sequences of ordinary length fit side by side", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.max_num_seqs = 4;
  CHECK(plan_memory(input).num_pages == 4 * 64);
  input.max_model_len = 130;  // shorter ones take less
  CHECK(plan_memory(input).num_pages == 4 * 3);
  input.max_model_len = 8192;
  input.max_num_seqs = 2;
  CHECK(plan_memory(input).num_pages == 128);
  CHECK(plan_memory(input).max_model_len == 8192);
  input.max_num_seqs = 1000;
  CHECK(plan_memory(input).num_pages == 800);  // 80% of 1000
}

TEST_CASE("a length that is no whole number of pages", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.max_model_len = 4097;
  CHECK(plan_memory(input).num_pages == 65);
  CHECK(plan_memory(input).max_model_len == 4097);
}

TEST_CASE("little memory shortens the default length only", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.available_bytes = 110 * kMiB;
  const MemoryPlan plan = plan_memory(input);
  CHECK(plan.num_pages == 8);  // 80% of 10
  CHECK(plan.max_model_len == 512);
  input.max_model_len = 513;
  CHECK(status_of(input).code() == StatusCode::kResourceExhausted);
  CHECK_THAT(status_of(input).message(), Contains("513") && Contains("9 pages") &&
                                             Contains("8 pages") && Contains("512 tokens"));
  input.max_model_len = 512;
  CHECK(plan_memory(input).max_model_len == 512);
}

TEST_CASE("cache memory as given", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.cache_bytes = 200 * kMiB + 5;
  MemoryPlan plan = plan_memory(input);
  CHECK(plan.num_pages == 200);
  CHECK(plan.max_model_len == 4096);
  input.cache_bytes = 2 * kMiB;
  plan = plan_memory(input);
  CHECK(plan.num_pages == 2);
  CHECK(plan.max_model_len == 128);
  input.cache_bytes = kMiB - 1;
  CHECK(status_of(input).code() == StatusCode::kResourceExhausted);
  CHECK_THAT(status_of(input).message(), Contains("no room for one page"));
  input.cache_bytes = 1001 * kMiB;
  CHECK(status_of(input).code() == StatusCode::kResourceExhausted);
  CHECK_THAT(status_of(input).message(), Contains("1001.00 MiB") && Contains("40.00 MiB"));
}

TEST_CASE("lengths out of range", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.max_model_len = 8193;
  CHECK(status_of(input).code() == StatusCode::kInvalidArgument);
  CHECK_THAT(status_of(input).message(), Contains("8193") && Contains("8192"));
  input.max_model_len = -1;
  CHECK(status_of(input).code() == StatusCode::kInvalidArgument);
  input = base_input();
  input.cache_bytes = -1;
  CHECK(status_of(input).code() == StatusCode::kInvalidArgument);
}

TEST_CASE("weights that fill the memory leave no cache", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.available_bytes = 50 * kMiB;
  CHECK(status_of(input).code() == StatusCode::kResourceExhausted);
  CHECK_THAT(status_of(input).message(), Contains("50.00 MiB"));
}

TEST_CASE("huge numbers do not overflow", "[memory_plan]") {
  MemoryPlanInput input = base_input();
  input.default_model_len = input.longest_model_len = std::int64_t{1} << 62;
  input.page_bytes = std::int64_t{1} << 40;
  input.available_bytes = std::int64_t{1} << 61;
  const MemoryPlan plan = plan_memory(input);
  CHECK(plan.num_pages > 0);
  CHECK(plan.max_model_len <= plan.num_pages * input.block_size);
}

TEST_CASE("length that RoPE scaling reaches", "[memory_plan]") {
  ModelConfig config;
  config.max_position_embeddings = 32768;
  CHECK(longest_model_len(config) == 32768);
  config.rope.type = RopeType::kYarn;
  config.rope.factor = 4;
  config.rope.original_max_position = 32768;
  CHECK(longest_model_len(config) == 131072);
  config.max_position_embeddings = 131072;
  CHECK(longest_model_len(config) == 131072);
  config.rope.type = RopeType::kLinear;
  config.max_position_embeddings = 4096;
  CHECK(longest_model_len(config) == 16384);
  config.rope.type = RopeType::kLlama3;
  CHECK(longest_model_len(config) == 4096);
}

TEST_CASE("bytes for people", "[memory_plan]") {
  CHECK(format_bytes(512) == "512 B");
  CHECK(format_bytes(1536) == "1.50 KiB");
  CHECK(format_bytes(std::int64_t{5} << 30) == "5.00 GiB");
}

TEST_CASE("host memory is plausible", "[memory_plan]") { CHECK(available_host_memory() > kMiB); }

}  // namespace
}  // namespace moba
