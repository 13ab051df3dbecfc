// Models split over ranks against the same models on one.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>

#include "model/json_file.h"
#include "model/shard_plan.h"
#include "tests/catch.h"
#include "tests/device/rank_threads.h"
#include "tests/model/model_harness.h"
#include "tests/model/temp_files.h"

using moba::Communicator;
using moba::make_shard_plan;
using moba::ModelConfig;
using moba::ShardPlan;
using moba::ShardRange;
using moba::test::error_of;
using moba::test::HarnessOptions;
using moba::test::ModelHarness;
using moba::test::on_ranks;
using moba::test::random_chunks;

namespace {

const std::filesystem::path kModels = std::filesystem::path(MOBA_TEST_DATA_DIR) / "models";
const std::filesystem::path kEmbedded =
    std::filesystem::path(MOBA_SOURCE_DIR) / "configs/models/moba-books-19m";

struct Run {
  std::vector<std::int32_t> ids;
  std::vector<int> chunks;
  std::vector<int> rows;
  bool moba = false;
  moba::DType dtype = moba::DType::kFloat32;
};

std::vector<float> run_one(ModelHarness& harness, const Run& run) {
  const int topk = harness.config().moba.topk > 0 ? harness.config().moba.topk : 2;
  return harness.run(
      run.ids, run.chunks, run.rows,
      run.moba ? harness.moba_attention(topk, std::vector<int>{}) : harness.full_attention(), 3);
}

HarnessOptions options_for(const Run& run, int num_threads) {
  HarnessOptions options;
  options.capacity = static_cast<std::int64_t>(run.ids.size());
  options.num_threads = num_threads;
  options.dtype = run.dtype;
  return options;
}

// Logits [rows, vocab] put together from the ranks' pieces.
std::vector<float> run_ranks(const std::filesystem::path& dir, const Run& run, int num_ranks,
                             std::vector<std::int64_t>* weight_bytes = nullptr) {
  const auto ranks = static_cast<std::size_t>(num_ranks);
  std::vector<std::vector<float>> pieces(ranks);
  std::vector<ShardRange> ranges(ranks);
  std::vector<std::int64_t> bytes(ranks);
  std::int64_t vocab = 0;
  on_ranks(num_ranks, [&](int rank, std::unique_ptr<Communicator> group) {
    const auto index = static_cast<std::size_t>(rank);
    ModelHarness harness(dir, options_for(run, 1), std::move(group));
    pieces[index] = run_one(harness, run);
    ranges[index] = harness.model().shard().vocab;
    bytes[index] = harness.model().weight_bytes();
    if (rank == 0) vocab = harness.config().vocab_size;
  });
  std::vector<float> all(run.rows.size() * static_cast<std::size_t>(vocab));
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto size = static_cast<std::size_t>(ranges[rank].size());
    for (std::size_t row = 0; row < run.rows.size(); ++row) {
      std::memcpy(all.data() + row * static_cast<std::size_t>(vocab) +
                      static_cast<std::size_t>(ranges[rank].begin),
                  pieces[rank].data() + row * size, size * sizeof(float));
    }
  }
  if (weight_bytes != nullptr) *weight_bytes = bytes;
  return all;
}

float max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  REQUIRE(!a.empty());
  float worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    if (!(difference <= worst)) worst = difference;  // NaN counts
  }
  return worst;
}

ModelConfig config_of(int q_heads, int kv_heads, int intermediate, std::int64_t vocab) {
  ModelConfig config;
  config.num_q_heads = q_heads;
  config.num_kv_heads = kv_heads;
  config.intermediate_size = intermediate;
  config.vocab_size = vocab;
  return config;
}

std::string plan_error(const ModelConfig& config, int num_ranks) {
  return error_of([&] { make_shard_plan(config, 0, num_ranks); });
}

}  // namespace

TEST_CASE("shard plans: every head, row and token has its rank") {
  const ModelConfig config = config_of(32, 8, 14336, 128256);
  for (const int n : {1, 2, 4, 8, 16, 32}) {
    CAPTURE(n);
    ShardPlan before;
    for (int rank = 0; rank < n; ++rank) {
      const ShardPlan plan = make_shard_plan(config, rank, n);
      CHECK(plan.q_heads.begin == before.q_heads.end);
      CHECK(plan.intermediate.begin == before.intermediate.end);
      CHECK(plan.vocab.begin == before.vocab.end);
      CHECK(plan.vocab.begin == rank * plan.vocab_stride);
      CHECK(plan.q_heads.size() == 32 / n);
      CHECK(plan.kv_heads.size() == std::max(1, 8 / n));
      // The KV heads that the query heads read.
      CHECK(plan.kv_heads.begin == plan.q_heads.begin / 4);
      CHECK(plan.kv_heads.end == (plan.q_heads.end + 3) / 4);
      before = plan;
    }
    CHECK(before.q_heads.end == 32);
    CHECK(before.intermediate.end == 14336);
    CHECK(before.vocab.end == 128256);
  }
  // Pieces that do not come out even.
  const ModelConfig odd = config_of(4, 2, 46, 131);
  CHECK(make_shard_plan(odd, 3, 4).vocab == ShardRange{99, 131});
  CHECK(make_shard_plan(odd, 3, 4).intermediate == ShardRange{36, 46});
  CHECK(make_shard_plan(odd, 1, 4).kv_heads == ShardRange{0, 1});
  CHECK(make_shard_plan(odd, 2, 4).kv_heads == ShardRange{1, 2});
}

TEST_CASE("shard plans: what cannot be split is refused") {
  CHECK(plan_error(config_of(6, 2, 1024, 8192), 4) ==
        "tensor_parallel_size 4 does not divide the model's 6 query heads");
  CHECK(plan_error(config_of(12, 6, 1024, 8192), 4) ==
        "tensor_parallel_size 4 neither divides the model's 6 KV heads nor is a multiple of them");
  CHECK(plan_error(config_of(8, 8, 9, 8192), 8) ==
        "tensor_parallel_size 8: intermediate size 9 in pieces of 2 leaves ranks without any");
  CHECK(plan_error(config_of(8, 8, 64, 5), 4) ==
        "tensor_parallel_size 4: vocabulary 5 in pieces of 2 leaves ranks without any");
}

TEST_CASE("ranks: the logits of every family are those of one rank") {
  int num_runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    const std::filesystem::path& dir = entry.path();
    if (!std::filesystem::exists(dir / "expected.json")) continue;
    const ModelConfig config = moba::load_model_config(dir);
    const nlohmann::json expected = moba::load_json_object(dir / "expected.json");
    Run run;
    run.ids = expected.at("cases").at(0).at("input_ids").get<std::vector<std::int32_t>>();
    if (config.sliding_window) {
      run.ids.resize(std::min(run.ids.size(), static_cast<std::size_t>(*config.sliding_window)));
    }
    run.chunks = random_chunks(static_cast<std::int64_t>(run.ids.size()), 11);
    run.rows = {0, static_cast<int>(run.ids.size()) / 2, static_cast<int>(run.ids.size()) - 1};
    for (const bool moba : {false, true}) {
      run.moba = moba;
      ModelHarness one(dir, options_for(run, 1));
      const std::vector<float> logits = run_one(one, run);
      for (const int n : {2, 3, 4}) {
        if (error_of([&] { make_shard_plan(config, 0, n); }) != "") continue;
        INFO(dir.filename().string() << (moba ? " moba" : " full") << " on " << n);
        ++num_runs;
        const float difference = max_difference(run_ranks(dir, run, n), logits);
        INFO("largest difference " << difference);
        CHECK(difference <= 1e-4F);
      }
    }
  }
  CHECK(num_runs >= 40);
}

TEST_CASE("ranks: the embedded model's logits and memory") {
  Run run;
  for (int i = 0; i < 700; ++i) run.ids.push_back(5 + (i * i + 31 * i) % 8000);
  run.chunks = {300, 1, 250};
  run.rows = {0, 299, 300, 550, 699};
  for (const bool moba : {false, true}) {
    run.moba = moba;
    for (const moba::DType dtype : {moba::DType::kFloat32, moba::DType::kBFloat16}) {
      run.dtype = dtype;
      ModelHarness one(kEmbedded, options_for(run, 1));
      const std::vector<float> logits = run_one(one, run);
      std::vector<std::int64_t> bytes;
      const float difference = max_difference(run_ranks(kEmbedded, run, 2, &bytes), logits);
      INFO("largest difference " << difference);
      CHECK(difference <= (dtype == moba::DType::kFloat32 ? 1e-4F : 0.5F));
      for (const std::int64_t rank_bytes : bytes) {
        CHECK(static_cast<double>(rank_bytes) <=
              1.05 / 2 * static_cast<double>(one.model().weight_bytes()));
      }
    }
  }
}
