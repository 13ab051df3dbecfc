// moba bench latency: how long prompts take to read and tokens to generate.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moba/engine.h"
#include "tools/moba/bench.h"
#include "tools/moba/bench_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/log.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

// Prompts run once untimed first, in short, so that pages are touched and caches warm; generating
// takes that many tokens of it, after which a GPU has recorded its graphs.
constexpr std::int64_t kMaxWarmUpTokens = 2048;
constexpr std::int64_t kWarmUpOutput = 8;
// What a device without room for more sequences takes by itself.
constexpr std::int64_t kDefaultSeqs = 16;

struct LatencyOptions {
  explicit LatencyOptions(CLI::App& app)
      : settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kServing,
                       SettingScope::kAttention}),
        output(app, /*log=*/true) {
    constexpr const char* kGroup = "Measuring";
    prompts =
        add_text_option(app, "-p,--prompt-tokens", "N,...",
                        "Lengths of the prompts to time, or none (default: 512,2048)", kGroup);
    depths = add_text_option(app, "-d,--decode-depths", "N,...",
                             "Tokens that stand before the generated ones, or none (default: 1)",
                             kGroup);
    batches = add_text_option(app, "--batches", "N,...",
                              "Requests that run together in each case (default: 1)", kGroup);
    generated = add_text_option(app, "-n,--output-tokens", "N",
                                "Tokens to generate at each depth; 0: none (default: 128)", kGroup);
    repeats = add_text_option(app, "-r,--repeats", "N",
                              "Timed runs of each case; the median counts (default: 5)", kGroup);
    seed = add_text_option(app, "--seed", "N", "Of the random prompts (default: 1)", kGroup);
  }
  SettingOptions settings;
  OutputOptions output;
  CLI::Option* prompts = nullptr;
  CLI::Option* depths = nullptr;
  CLI::Option* batches = nullptr;
  CLI::Option* generated = nullptr;
  CLI::Option* repeats = nullptr;
  CLI::Option* seed = nullptr;
};

// Seconds of one case's runs.
struct Case {
  std::string name;         // "prefill" or "decode"
  std::int64_t length = 0;  // of each prompt
  std::int64_t batch = 1;   // requests
  std::int64_t tokens = 0;  // of each request that the seconds were spent on
  std::vector<double> seconds;

  double rate() const { return ratio(static_cast<double>(tokens * batch), median(seconds)); }
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Requests that run together, none of which outlives this.
class RunningBatch {
 public:
  explicit RunningBatch(Engine& engine) : engine_(engine) {}
  ~RunningBatch() {
    for (RequestHandle& handle : handles_) handle.cancel();
    for (const RequestHandle& handle : handles_) handle.wait();
  }
  RunningBatch(const RunningBatch&) = delete;
  RunningBatch& operator=(const RunningBatch&) = delete;

  void submit(const Request& request, Callbacks callbacks) {
    callbacks.on_prompt = [](std::int64_t, std::int64_t) { return interrupt_signal() == 0; };
    handles_.push_back(take(engine_.submit(request, std::move(callbacks))));
  }
  void wait() {
    for (const RequestHandle& handle : handles_) {
      const Result<RequestOutput>& result = handle.wait();
      if (!result.ok()) throw_status(result.status());
    }
  }

 private:
  Engine& engine_;
  std::vector<RequestHandle> handles_;
};

// Seconds from the first request's submission to the last one's first token.
double time_prefill(Engine& engine, const std::vector<Request>& requests) {
  double end = 0;
  RunningBatch batch(engine);
  const double begin = now();
  for (const Request& request : requests) {
    Callbacks callbacks;
    callbacks.on_token = [&end](const TokenEvent&) {
      end = now();  // on the engine's thread, one after the other
      return interrupt_signal() == 0;
    };
    batch.submit(request, std::move(callbacks));
  }
  batch.wait();
  return end - begin;
}

// Seconds that `steps` steps take in which all requests generate: from the first token of the
// request that is the last to have one. Those that began earlier go on until it has the others.
double time_decode(Engine& engine, const std::vector<Request>& requests, std::int64_t steps) {
  struct {
    std::vector<char> has_begun;
    std::size_t num_begun = 0;
    std::size_t clock = 0;  // the request whose tokens are counted, once all have begun
    std::int64_t steps_left = 0;
    double begin = 0;
    double end = 0;
  } watch;  // of the engine's thread until the batch has ended
  watch.has_begun.resize(requests.size());
  watch.steps_left = steps;
  {
    RunningBatch batch(engine);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Callbacks callbacks;
      callbacks.on_token = [&watch, i](const TokenEvent&) {
        if (interrupt_signal() != 0 || watch.end > 0) return false;
        if (watch.has_begun[i] == 0) {
          watch.has_begun[i] = 1;
          if (++watch.num_begun == watch.has_begun.size()) {
            watch.clock = i;
            watch.begin = now();
          }
        } else if (watch.begin > 0 && watch.clock == i && --watch.steps_left == 0) {
          watch.end = now();
        }
        return watch.end == 0;
      };
      batch.submit(requests[i], std::move(callbacks));
    }
    batch.wait();
  }
  if (watch.end == 0 && interrupt_signal() == 0) {
    throw CommandError(fmt::format(
        "decode after {} tokens, {} requests: some ended before {} steps were done together (they "
        "reached the longest length, --max-model-len)",
        requests[0].prompt_ids.size(), requests.size(), steps));
  }
  return watch.end - watch.begin;
}

OrderedJson case_json(const Case& c) {
  OrderedJson json{
      {"case", c.name}, {"prompt_tokens", c.length}, {"batch", c.batch}, {"tokens", c.tokens}};
  json["median_seconds"] = median(c.seconds);
  json["tokens_per_second"] = c.rate();
  json["seconds"] = c.seconds;
  return json;
}

std::string case_line(const Case& c) {
  const auto [least, most] = std::minmax_element(c.seconds.begin(), c.seconds.end());
  return fmt::format("{:<8} {:>10} {:>6} {:>8} {:>12.2f} {:>12.2f} {:>12.2f} {:>12.1f}\n", c.name,
                     with_commas(c.length), c.batch, with_commas(c.tokens), 1e3 * median(c.seconds),
                     1e3 * *least, 1e3 * *most, c.rate());
}

// Runs the case, first untimed.
void measure(Case& c, std::size_t repeats, Engine& engine, RandomPrompts& prompts) {
  const EngineInfo& info = engine.info();
  const auto requests = [&](std::int64_t length, std::int64_t output) {
    std::vector<Request> list;
    for (std::int64_t i = 0; i < c.batch; ++i) list.push_back(prompts.request(length, output));
    return list;
  };
  if (c.name == "prefill") {
    time_prefill(engine, requests(std::min(c.length, kMaxWarmUpTokens), 1));
    for (std::size_t i = 0; i < repeats && interrupt_signal() == 0; ++i) {
      c.seconds.push_back(time_prefill(engine, requests(c.length, 1)));
    }
    return;
  }
  // Tokens that a request may generate before the last one's prompt is read, were prompts read one
  // after the other in the least pieces.
  const std::int64_t wait = c.batch == 1 ? 0 : c.batch * (c.length / 256 + 2);
  const std::int64_t pages = (c.length + c.tokens + 1 + info.block_size) / info.block_size;
  if (pages * c.batch > info.num_pages) {
    throw CommandError(fmt::format(
        "decode of {} requests after {} tokens needs {} pages of {} tokens; the cache has {}",
        c.batch, with_commas(c.length), with_commas(pages * c.batch), info.block_size,
        with_commas(info.num_pages)));
  }
  // The same prompts every time: after the first they are found in the prefix cache.
  const std::vector<Request> list = requests(c.length, c.tokens + 1 + wait);
  time_decode(engine, list, std::min(c.tokens, kWarmUpOutput));
  for (std::size_t i = 0; i < repeats && interrupt_signal() == 0; ++i) {
    c.seconds.push_back(time_decode(engine, list, c.tokens));
  }
}

int run_latency(const LatencyOptions& options) {
  set_up_log(options.output.verbosity());
  refuse_debug_build();
  const std::vector<std::int64_t> lengths = lengths_of(options.prompts, "512,2048");
  const std::vector<std::int64_t> depths = lengths_of(options.depths, "1");
  const std::vector<std::int64_t> batches = lengths_of(options.batches, "1");
  if (batches.empty()) throw UsageError("--batches: must be at least 1, not none");
  const std::int64_t generated = integer_of(options.generated, 0).value_or(128);
  const auto repeats = static_cast<std::size_t>(integer_of(options.repeats, 1).value_or(5));
  const auto seed = static_cast<std::uint64_t>(integer_of(options.seed, 0).value_or(1));

  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  require_model(settings);
  const std::int64_t largest = *std::max_element(batches.begin(), batches.end());
  int& max_num_seqs = settings.engine.scheduler.max_num_seqs;
  if (max_num_seqs == 0 && largest > kDefaultSeqs) max_num_seqs = static_cast<int>(largest);
  const std::unique_ptr<Engine> engine = open_engine(settings);
  const EngineInfo& info = engine->info();
  if (largest > info.max_num_seqs) {
    throw UsageError(fmt::format("--batches: {} requests, but --max-num-seqs is {}", largest,
                                 info.max_num_seqs));
  }
  RandomPrompts prompts(info.vocab_size, seed);
  const InterruptScope interrupts;

  std::vector<Case> cases;
  for (const std::int64_t batch : batches) {
    for (const std::int64_t length : lengths) {
      cases.push_back({"prefill", length, batch, length, {}});
    }
    if (generated == 0) continue;
    // The first token comes with the prompt.
    for (const std::int64_t depth : depths)
      cases.push_back({"decode", depth, batch, generated, {}});
  }
  const bool json = options.output.json();
  if (!json) {
    write_stdout(environment_text(settings, info, seed) +
                 fmt::format("{:<8} {:>10} {:>6} {:>8} {:>12} {:>12} {:>12} {:>12}\n", "case",
                             "prompt", "batch", "tokens", "median ms", "least ms", "most ms",
                             "tokens/s"));
  }
  for (Case& c : cases) {
    if (interrupt_signal() != 0) break;
    measure(c, repeats, *engine, prompts);
    if (!json && interrupt_signal() == 0) write_stdout(case_line(c));
  }
  if (const int signal = interrupt_signal(); signal != 0) return 128 + signal;
  if (!json) {
    write_stdout(fmt::format("\nweights {}, peak memory {}\n", human_bytes(info.weight_bytes),
                             human_bytes(peak_memory_bytes())));
    return 0;
  }
  OrderedJson out = environment_json(settings, info, seed);
  out["peak_memory_bytes"] = peak_memory_bytes();
  out["cases"] = OrderedJson::array();
  for (const Case& c : cases) out["cases"].push_back(case_json(c));
  write_json(out);
  return 0;
}

}  // namespace

Command add_latency_bench(CLI::App& bench) {
  CLI::App* latency = bench.add_subcommand(
      "latency", "Time to read prompts and to generate, alone or several requests together");
  latency->group("Commands");
  latency->footer(
      "Examples:\n"
      "  moba bench latency -m configs/models/moba-books-19m -p 512,2048 -d 1,2048\n"
      "  moba bench latency -m DIR -p none -d 2048 --batches 1,8,64");
  const auto options = std::make_shared<LatencyOptions>(*latency);
  return {latency, [options] { return run_latency(*options); }};
}

}  // namespace moba::cli
