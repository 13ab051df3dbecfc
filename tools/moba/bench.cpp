// moba bench: how fast a checkpoint runs on this machine.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "moba/engine.h"
#include "tools/moba/engine_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/log.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

// Each case runs once untimed first, in short, so that pages are touched and caches warm.
constexpr std::int64_t kMaxWarmUpTokens = 2048;
constexpr std::int64_t kWarmUpOutput = 8;

struct LatencyOptions {
  explicit LatencyOptions(CLI::App& app)
      : settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kAttention}),
        output(app, /*log=*/true) {
    constexpr const char* kGroup = "Measuring";
    prompts = add_text_option(app, "-p,--prompt-tokens", "N,...",
                              "Lengths of the prompts to time (default: 512,2048)", kGroup);
    depths = add_text_option(app, "-d,--decode-depths", "N,...",
                             "Tokens that stand before the generated ones (default: 1)", kGroup);
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
  CLI::Option* generated = nullptr;
  CLI::Option* repeats = nullptr;
  CLI::Option* seed = nullptr;
};

// Seconds of one case's runs.
struct Case {
  std::string name;         // "prefill" or "decode"
  std::int64_t length = 0;  // of the prompt
  std::int64_t tokens = 0;  // that the seconds were spent on
  std::vector<double> seconds;

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  }
  double rate() const { return ratio(static_cast<double>(tokens), median()); }
};

std::vector<std::int64_t> lengths_of(const CLI::Option* option, const std::string& otherwise) {
  const std::string text = value_of(option).value_or(otherwise);
  std::vector<std::int64_t> lengths;
  try {
    for (const nlohmann::json& length : value_from_texts(ValueKind::kIntegers, {text})) {
      lengths.push_back(length.get<std::int64_t>());
    }
  } catch (const std::invalid_argument& error) {
    throw UsageError(option->get_name() + ": " + error.what());
  }
  for (const std::int64_t length : lengths) {
    if (length < 1) throw UsageError(option->get_name() + ": must be at least 1, not " + text);
  }
  return lengths;
}

class Runner {
 public:
  Runner(Engine& engine, std::uint64_t seed) : engine_(engine), random_(seed) {}

  // A prompt of fresh random tokens, so that no run finds anything of an earlier one.
  RequestMetrics run(std::int64_t prompt_tokens, std::int64_t output_tokens) {
    Request request;
    std::uniform_int_distribution<std::int32_t> token(
        0, static_cast<std::int32_t>(engine_.info().vocab_size - 1));
    for (std::int64_t i = 0; i < prompt_tokens; ++i) request.prompt_ids.push_back(token(random_));
    request.sampling.temperature = 0;
    request.sampling.max_tokens = static_cast<int>(output_tokens);
    request.sampling.ignore_eos = true;
    Callbacks callbacks;
    callbacks.on_prompt = [](std::int64_t, std::int64_t) { return interrupt_signal() == 0; };
    callbacks.on_token = [](const TokenEvent&) { return interrupt_signal() == 0; };
    return take(engine_.generate(request, callbacks)).metrics;
  }

 private:
  Engine& engine_;
  std::mt19937_64 random_;
};

OrderedJson case_json(const Case& c) {
  OrderedJson json{{"case", c.name}, {"prompt_tokens", c.length}, {"tokens", c.tokens}};
  json["median_seconds"] = c.median();
  json["tokens_per_second"] = c.rate();
  json["seconds"] = c.seconds;
  return json;
}

std::string case_line(const Case& c) {
  const auto [least, most] = std::minmax_element(c.seconds.begin(), c.seconds.end());
  return fmt::format("{:<8} {:>10} {:>8} {:>12.2f} {:>12.2f} {:>12.2f} {:>12.1f}\n", c.name,
                     with_commas(c.length), with_commas(c.tokens), 1e3 * c.median(), 1e3 * *least,
                     1e3 * *most, c.rate());
}

int run_latency(const LatencyOptions& options) {
  set_up_log(options.output.verbosity());
#if !defined(NDEBUG)
  throw CommandError("this is a debug build: its speed says nothing (build with the cpu preset)");
#endif
  const std::vector<std::int64_t> prompts = lengths_of(options.prompts, "512,2048");
  const std::vector<std::int64_t> depths = lengths_of(options.depths, "1");
  const std::int64_t generated = integer_of(options.generated, 0).value_or(128);
  const auto repeats = static_cast<std::size_t>(integer_of(options.repeats, 1).value_or(5));
  const auto seed = static_cast<std::uint64_t>(integer_of(options.seed, 0).value_or(1));

  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  require_model(settings);
  const std::unique_ptr<Engine> engine = open_engine(settings);
  Runner runner(*engine, seed);
  const InterruptScope interrupts;

  std::vector<Case> cases;
  for (const std::int64_t length : prompts) cases.push_back({"prefill", length, length, {}});
  if (generated > 0) {
    // The first token comes with the prompt.
    for (const std::int64_t depth : depths) cases.push_back({"decode", depth, generated, {}});
  }
  for (Case& c : cases) {
    const bool is_decode = c.name == "decode";
    runner.run(std::min(c.length, kMaxWarmUpTokens), is_decode ? kWarmUpOutput : 1);
    for (std::size_t i = 0; i < repeats && interrupt_signal() == 0; ++i) {
      const RequestMetrics metrics = runner.run(c.length, is_decode ? c.tokens + 1 : 1);
      c.seconds.push_back(is_decode ? metrics.decode_seconds : metrics.prompt_seconds);
    }
  }
  if (const int signal = interrupt_signal(); signal != 0) return 128 + signal;

  const EngineInfo& info = engine->info();
  if (options.output.json()) {
    OrderedJson json{{"version", MOBA_VERSION}, {"model", settings.engine.model},
                     {"dtype", info.dtype},     {"num_threads", info.num_threads},
                     {"cpu_isa", info.cpu_isa}, {"seed", seed}};
    json["attention"] = attention_json(info.layer_topk, info.moba_block_size);
    json["weight_bytes"] = info.weight_bytes;
    json["peak_memory_bytes"] = peak_memory_bytes();
    OrderedJson list = OrderedJson::array();
    for (const Case& c : cases) list.push_back(case_json(c));
    json["cases"] = list;
    write_json(json);
    return 0;
  }
  std::string text = fmt::format("moba {}, {}, {}, {} threads, {}, seed {}\n{}\n\n", MOBA_VERSION,
                                 settings.engine.model, info.dtype, info.num_threads, info.cpu_isa,
                                 seed, describe_attention(info.layer_topk, info.moba_block_size));
  text += fmt::format("{:<8} {:>10} {:>8} {:>12} {:>12} {:>12} {:>12}\n", "case", "prompt",
                      "tokens", "median ms", "least ms", "most ms", "tokens/s");
  for (const Case& c : cases) text += case_line(c);
  text += fmt::format("\nweights {}, peak memory {}\n", human_bytes(info.weight_bytes),
                      human_bytes(peak_memory_bytes()));
  write_stdout(text);
  return 0;
}

}  // namespace

Command add_bench(CLI::App& program) {
  CLI::App* bench = program.add_subcommand("bench", "Measure the speed of a checkpoint here");
  bench->group("Commands");
  bench->require_subcommand(1);
  CLI::App* latency = bench->add_subcommand(
      "latency", "Time to read prompts and to generate, one request at a time");
  latency->group("Commands");
  latency->footer(
      "Example:\n"
      "  moba bench latency -m configs/models/moba-books-19m -p 512,2048 -d 1,2048");
  const auto options = std::make_shared<LatencyOptions>(*latency);
  return {bench, [options] { return run_latency(*options); }};
}

}  // namespace moba::cli
