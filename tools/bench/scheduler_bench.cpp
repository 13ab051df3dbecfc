// What a step costs the host: the scheduler by itself, the batch's arrays, and everything the
// engine does beside the model, text of the tokens included.
//
//   scheduler_bench [--seqs N] [--steps N] [--model DIR]
//
// No model runs. DIR is a checkpoint for its tokenizer; without it the last table is left out.
// Figures are microseconds a step: median, 99th percentile and maximum over the steps.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "device/check.h"
#include "engine/batch_builder.h"
#include "engine/engine_core.h"
#include "engine/scheduler.h"
#include "tokenizer/tokenizer.h"
#include "tools/bench/bench_common.h"

namespace moba::bench {
namespace {

constexpr int kBlockSize = 64;
constexpr int kNumLayers = 32;
constexpr std::uint32_t kSeed = 1;

struct Options {
  int num_seqs = 256;
  int num_steps = 2000;
  std::string model;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    MOBA_CHECK(i + 1 < argc, flag, ": no value");
    const std::string value = argv[i + 1];
    if (flag == "--seqs") {
      options.num_seqs = std::stoi(value);
    } else if (flag == "--steps") {
      options.num_steps = std::stoi(value);
    } else if (flag == "--model") {
      options.model = value;
    } else {
      throw Error(concat(flag, ": no such option"));
    }
  }
  MOBA_CHECK(options.num_seqs >= 2 && options.num_steps >= 10, "--seqs >= 2 and --steps >= 10");
  return options;
}

// Microseconds of the steps of one kind.
class Times {
 public:
  void add(double seconds) { micros_.push_back(seconds * 1e6); }
  void print(const char* name) {
    std::sort(micros_.begin(), micros_.end());
    const auto at = [this](double q) {
      return micros_[static_cast<std::size_t>(q * static_cast<double>(micros_.size() - 1))];
    };
    std::printf("%-58s %8.1f %8.1f %8.1f\n", name, at(0.5), at(0.99), at(1.0));
  }

 private:
  std::vector<double> micros_;
};

// A prompt of random tokens, or one with a given beginning.
std::unique_ptr<Sequence> make_sequence(std::int64_t id, std::int64_t prompt, std::int64_t output,
                                        std::mt19937& random) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = sequence->request_id = id;
  for (std::int64_t i = 0; i < prompt; ++i) {
    sequence->tokens.push_back(static_cast<std::int32_t>(random() % 30000));
  }
  sequence->num_prompt_tokens = prompt;
  sequence->max_num_tokens = prompt + output;
  sequence->prefill_topk = sequence->decode_topk = std::vector<std::int32_t>(kNumLayers, 8);
  sequence->prefix_root = std::make_shared<const std::string>("root");
  for (std::int64_t i = 0; i < prompt / kBlockSize; ++i) {
    const PrefixKey key{&sequence->prefix_root, sequence->tokens, sequence->page_hashes};
    sequence->page_hashes.push_back(prefix_page_hash(key, static_cast<std::size_t>(i), kBlockSize));
  }
  return sequence;
}

struct Load {
  const char* name;
  std::int64_t long_prompt = 0;  // one of that length is read beside the others
  int num_blocked = 0;           // urgent long prompts that find no room, at the head of the queue
  std::int64_t context = 1024;   // of those that generate
  bool aligned = false;          // their pages become full in the same steps
};

void measure_scheduler(const Options& options, const Load& load) {
  std::mt19937 random(kSeed);
  SchedulerConfig config;
  config.max_num_batched_tokens = 4096;
  config.max_num_seqs = options.num_seqs;
  config.block_size = kBlockSize;
  config.long_prefill_token_threshold = 512;
  const std::int64_t output = options.num_steps + 100;
  config.num_pages =
      options.num_seqs * ((load.context + output) / kBlockSize + 2) + load.long_prompt / kBlockSize;
  Scheduler scheduler(config);
  BatchBuilder builder({kNumLayers, kBlockSize, 4 * kBlockSize, config.max_num_batched_tokens,
                        config.max_num_seqs, config.num_pages});

  std::vector<std::unique_ptr<Sequence>> sequences;
  const auto add = [&](std::int64_t prompt, int priority) {
    sequences.push_back(make_sequence(static_cast<std::int64_t>(sequences.size()), prompt,
                                      std::min(output, config.num_pages * kBlockSize - prompt),
                                      random));
    sequences.back()->priority = priority;
    scheduler.add(sequences.back().get());
  };
  const int num_generating = options.num_seqs - (load.long_prompt > 0 ? 1 : 0);
  for (int i = 0; i < num_generating; ++i) {
    add(load.context - (load.aligned ? 0 : i % kBlockSize), 0);
  }
  std::vector<Sequence*> samples;
  Times schedule;
  Times build;
  Times complete;
  bool steady = false;
  const auto step = [&] {
    const double start = now_seconds();
    const StepPlan& plan = scheduler.schedule();
    const double scheduled = now_seconds();
    builder.build(plan);
    const double built = now_seconds();
    samples.clear();
    for (const ScheduledChunk& chunk : plan.chunks) {
      if (chunk.reaches_end()) samples.push_back(chunk.sequence);
    }
    const double before_complete = now_seconds();
    scheduler.complete_step();
    const double end = now_seconds();
    for (Sequence* sequence : samples) {
      sequence->tokens.push_back(static_cast<std::int32_t>(random() % 30000));
    }
    if (steady) {
      schedule.add(scheduled - start);
      build.add(built - scheduled);
      complete.add((scheduled - start) + (end - before_complete));
    }
    return samples.size();
  };
  while (step() < static_cast<std::size_t>(num_generating)) {
  }
  if (load.long_prompt > 0) add(load.long_prompt, 0);
  // They would take the place of others, and all of these are not enough.
  for (int i = 0; i < load.num_blocked; ++i) add((config.num_pages - 2) * kBlockSize, 0);
  steady = true;
  for (int i = 0; i < options.num_steps; ++i) step();
  std::printf("\n%s\n", load.name);
  complete.print("  scheduler: schedule() and complete_step()");
  schedule.print("    of these schedule()");
  build.print("  arrays of the batch");
}

// Gives random tokens at once.
class NullRunner : public StepRunner {
 public:
  explicit NullRunner(std::int32_t vocab_size) : vocab_size_(vocab_size) {}
  StepResult& run(const Batch& batch) override {
    const double start = now_seconds();
    result_.samples.assign(batch.sample_rows.size(), {});
    for (StepResult::Sample& sample : result_.samples) {
      sample.token.token_id =
          static_cast<std::int32_t>(random_() % static_cast<unsigned>(vocab_size_));
    }
    seconds += now_seconds() - start;
    return result_;
  }
  double seconds = 0;  // its own

 private:
  std::int32_t vocab_size_;
  std::mt19937 random_{kSeed};
  StepResult result_;
};

void measure_core(const Options& options) {
  const std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(options.model);
  EngineCoreConfig config;
  config.model.vocab_size = tokenizer->vocab_size();
  config.model.num_layers = kNumLayers;
  config.model.num_q_heads = 32;
  config.model.moba = {512, 8};
  config.model.layer_kinds.assign(kNumLayers, AttentionKind::kMoba);
  config.geometry.block_size = kBlockSize;
  config.geometry.moba_block_size = 512;
  config.scheduler.max_num_batched_tokens = 4096;
  config.scheduler.max_num_seqs = options.num_seqs;
  config.max_model_len = 1024 + options.num_steps + 200;
  config.num_pages = options.num_seqs * (config.max_model_len / kBlockSize + 2);
  auto owned = std::make_unique<NullRunner>(tokenizer->vocab_size());
  NullRunner& runner = *owned;
  EngineCore core(config, tokenizer, std::move(owned));
  std::mt19937 random(kSeed);
  std::size_t bytes = 0;
  Callbacks callbacks;
  callbacks.on_token = [&bytes](const TokenEvent& event) {
    bytes += event.text.size();
    return true;
  };
  for (int i = 0; i < options.num_seqs; ++i) {
    Request request;
    for (int j = 0; j < 1024 - i % kBlockSize; ++j) {
      request.prompt_ids.push_back(
          static_cast<std::int32_t>(random() % static_cast<unsigned>(tokenizer->vocab_size())));
    }
    request.sampling.max_tokens = options.num_steps + 150;
    request.sampling.ignore_eos = true;
    request.sampling.stop = {"a stop string"};
    auto active = core.prepare(std::move(request), callbacks, Clock::now());
    active->on_finish = [](Result<RequestOutput>) {};
    core.add(std::move(active), i);
  }
  std::int64_t before = 0;
  do {
    before = core.stats().num_output_tokens;
    core.step();
  } while (core.stats().num_output_tokens - before < options.num_seqs);
  Times whole;
  Times stats;
  for (int i = 0; i < options.num_steps; ++i) {
    runner.seconds = 0;
    const double start = now_seconds();
    core.step();
    const double stepped = now_seconds();
    const EngineStats snapshot = core.stats();
    stats.add(now_seconds() - stepped);
    whole.add(stepped - start - runner.seconds);
    MOBA_CHECK(snapshot.num_running == options.num_seqs, "a request has ended");
  }
  std::printf("\nengine, %d requests generate, text and stop strings (%zu bytes)\n",
              options.num_seqs, bytes);
  whole.print("  whole step but for the model");
  stats.print("  a copy of the statistics");
  core.cancel_all();
}

void run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  refuse_debug_build();
  DeviceContext context(1);
  print_environment(context);
  std::printf("# %d sequences, %d steps, pages of %d, %d layers, seed %u\n\n", options.num_seqs,
              options.num_steps, kBlockSize, kNumLayers, kSeed);
  std::printf("%-58s %8s %8s %8s\n", "us a step", "median", "p99", "max");
  measure_scheduler(options, {"all generate, 1K context"});
  measure_scheduler(options, {"all generate, 16K context", 0, 0, 16384});
  measure_scheduler(options,
                    {"all generate, 1K context, all pages full in one step", 0, 0, 1024, true});
  measure_scheduler(options, {"a prompt of 1M tokens is read beside them", 1 << 20});
  measure_scheduler(options, {"4 long prompts wait for room", 0, 4});
  if (!options.model.empty()) measure_core(options);
}

}  // namespace
}  // namespace moba::bench

int main(int argc, char** argv) {
  try {
    moba::bench::run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scheduler_bench: %s\n", error.what());
    return 1;
  }
}
