// moba bench throughput: many requests at once.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
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
#include "tools/moba/parse.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

struct ThroughputOptions {
  explicit ThroughputOptions(CLI::App& app)
      : settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kServing,
                       SettingScope::kAttention}),
        output(app, /*log=*/true) {
    constexpr const char* kGroup = "Measuring";
    requests =
        add_text_option(app, "--num-requests", "N", "Requests in all (default: 256)", kGroup);
    input = add_text_option(app, "-p,--input-tokens", "N", "Tokens of each prompt (default: 1024)",
                            kGroup);
    generated = add_text_option(app, "-n,--output-tokens", "N",
                                "Tokens to generate for each request (default: 256)", kGroup);
    concurrency = add_text_option(app, "--concurrency", "N",
                                  "Requests under way at once; another one is sent when one has "
                                  "ended (default: all)",
                                  kGroup);
    rate = add_text_option(app, "--request-rate", "X",
                           "Requests a second that arrive, at random times (default: all at once)",
                           kGroup);
    beside = add_text_option(app, "--beside-prompt", "N",
                             "A prompt of that many tokens arrives when all that started generate "
                             "(default: none)",
                             kGroup);
    seed = add_text_option(app, "--seed", "N", "Of prompts and arrivals (default: 1)", kGroup);
  }
  SettingOptions settings;
  OutputOptions output;
  CLI::Option* requests = nullptr;
  CLI::Option* input = nullptr;
  CLI::Option* generated = nullptr;
  CLI::Option* concurrency = nullptr;
  CLI::Option* rate = nullptr;
  CLI::Option* beside = nullptr;
  CLI::Option* seed = nullptr;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Seconds since the beginning of the load.
struct Trace {
  double submitted = 0;
  double finished = 0;
  std::vector<double> tokens;  // when each came
};

// Sends requests and notes when their tokens come. All requests have ended when it is destroyed.
class Load {
 public:
  explicit Load(Engine& engine) : engine_(engine), begin_(Clock::now()) {}
  ~Load() {
    for (RequestHandle& handle : handles_) handle.cancel();
    for (const RequestHandle& handle : handles_) handle.wait();
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  // The trace must outlive this.
  void submit(const Request& request, Trace& trace) {
    Callbacks callbacks;
    callbacks.on_prompt = [](std::int64_t, std::int64_t) { return interrupt_signal() == 0; };
    callbacks.on_token = [this, &trace](const TokenEvent&) {
      trace.tokens.push_back(now());
      if (trace.tokens.size() == 1) {
        const std::lock_guard lock(mutex_);
        ++num_generating_;
        changed_.notify_one();
      }
      return interrupt_signal() == 0;
    };
    callbacks.on_finish = [this, &trace](const Result<RequestOutput>&) {
      trace.finished = now();
      const std::lock_guard lock(mutex_);
      ++num_finished_;
      changed_.notify_one();
    };
    trace.submitted = now();
    handles_.push_back(take(engine_.submit(request, std::move(callbacks))));
  }

  double now() const { return seconds_since(begin_); }
  std::size_t num_submitted() const { return handles_.size(); }

  // Waits until fewer than that many requests are under way.
  void wait_for_room(std::size_t concurrency) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return handles_.size() - num_finished_ < concurrency; });
  }
  // Waits until that many requests have had their first token, or have ended without.
  void wait_for_tokens(std::size_t requests) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [&] { return num_generating_ >= requests || num_finished_ == handles_.size(); });
  }
  void wait_until(double time) {
    std::this_thread::sleep_until(
        begin_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(time)));
  }
  // Waits for the end of all. Throws CommandError for one that failed.
  void wait() {
    for (const RequestHandle& handle : handles_) {
      const Result<RequestOutput>& result = handle.wait();
      if (!result.ok()) throw_status(result.status());
    }
  }

 private:
  Engine& engine_;
  Clock::time_point begin_;
  std::vector<RequestHandle> handles_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t num_generating_ = 0;
  std::size_t num_finished_ = 0;
};

// Runs requests that end one after the other, so that a GPU records its graphs for every size of a
// batch before the time counts.
void warm_up(Engine& engine, RandomPrompts& prompts, std::size_t concurrency) {
  constexpr std::int64_t kPrompt = 16;
  std::vector<Trace> traces(concurrency);
  Load load(engine);
  for (std::size_t i = 0; i < concurrency; ++i) {
    // Two steps at each of the small sizes; of the large ones only some have a graph.
    const std::size_t steps = i < 16 ? 4 + 2 * i : 36 + 2 * ((i - 16) / 4);
    load.submit(prompts.request(kPrompt, static_cast<std::int64_t>(steps)), traces[i]);
  }
  load.wait();
}

struct LoadShape {
  std::int64_t num_requests = 0;
  std::int64_t input = 0;
  std::int64_t output = 0;
  std::int64_t concurrency = 0;
  double rate = 0;          // 0: all at once
  std::int64_t beside = 0;  // 0: none
};

struct Measured {
  std::vector<Trace> traces;
  Trace beside;
  double seconds = 0;  // from the first submission to the last request's end; without `beside`
};

Measured run_load(Engine& engine, RandomPrompts& prompts, const LoadShape& shape,
                  std::uint64_t seed) {
  std::vector<Request> requests;
  for (std::int64_t i = 0; i < shape.num_requests; ++i) {
    requests.push_back(prompts.request(shape.input, shape.output));
  }
  const Request beside = prompts.request(shape.beside, 1);
  Measured measured;
  measured.traces.resize(requests.size());
  for (Trace& trace : measured.traces) trace.tokens.reserve(static_cast<std::size_t>(shape.output));
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> interval(shape.rate > 0 ? shape.rate : 1);
  Load load(engine);
  double arrival = 0;
  bool is_beside_sent = shape.beside == 0;
  const auto send_beside = [&] {
    load.wait_for_tokens(load.num_submitted());
    load.submit(beside, measured.beside);
    is_beside_sent = true;
  };
  const auto concurrency = static_cast<std::size_t>(shape.concurrency);
  for (std::size_t i = 0; i < requests.size() && interrupt_signal() == 0; ++i) {
    if (!is_beside_sent && i == concurrency) send_beside();
    // The prompt beside is not one of those that are counted.
    load.wait_for_room(concurrency + (is_beside_sent && shape.beside > 0 ? 1 : 0));
    if (shape.rate > 0) {
      load.wait_until(arrival);
      arrival += interval(random);
    }
    load.submit(requests[i], measured.traces[i]);
  }
  if (!is_beside_sent) send_beside();
  load.wait();
  for (const Trace& trace : measured.traces) {
    measured.seconds = std::max(measured.seconds, trace.finished);
  }
  return measured;
}

// Of the requests' tokens whose predecessor came in [begin, end).
std::vector<double> inter_token_seconds(const Measured& measured, double begin, double end) {
  std::vector<double> gaps;
  for (const Trace& trace : measured.traces) {
    for (std::size_t i = 1; i < trace.tokens.size(); ++i) {
      if (trace.tokens[i - 1] < begin || trace.tokens[i - 1] >= end) continue;
      gaps.push_back(trace.tokens[i] - trace.tokens[i - 1]);
    }
  }
  return gaps;
}

OrderedJson result_json(const LoadShape& shape, const Measured& measured, const EngineStats& before,
                        const EngineStats& after) {
  std::vector<double> first;
  std::vector<double> whole;
  std::size_t num_tokens = 0;
  for (const Trace& trace : measured.traces) {
    if (trace.tokens.empty()) continue;
    first.push_back(trace.tokens.front() - trace.submitted);
    whole.push_back(trace.finished - trace.submitted);
    num_tokens += trace.tokens.size();
  }
  const auto output = static_cast<double>(num_tokens);
  const auto input = static_cast<double>(shape.input * shape.num_requests);
  OrderedJson json{{"num_requests", shape.num_requests},
                   {"input_tokens", shape.input},
                   {"output_tokens", shape.output},
                   {"concurrency", shape.concurrency}};
  json["request_rate"] = shape.rate > 0 ? OrderedJson(shape.rate) : OrderedJson(nullptr);
  json["seconds"] = measured.seconds;
  json["requests_per_second"] = ratio(static_cast<double>(shape.num_requests), measured.seconds);
  json["output_tokens_per_second"] = ratio(output, measured.seconds);
  json["total_tokens_per_second"] = ratio(input + output, measured.seconds);
  json["time_to_first_token_ms"] = percentiles_json(first);
  json["inter_token_ms"] = percentiles_json(inter_token_seconds(measured, 0, measured.seconds));
  json["end_to_end_ms"] = percentiles_json(whole);
  json["num_steps"] = after.num_steps - before.num_steps;
  json["num_preemptions"] = after.num_preemptions - before.num_preemptions;
  if (shape.beside > 0 && !measured.beside.tokens.empty()) {
    const Trace& beside = measured.beside;
    const double end = beside.tokens.front();
    const std::vector<double> gaps = inter_token_seconds(measured, beside.submitted, end);
    json["beside"] = {{"prompt_tokens", shape.beside},
                      {"time_to_first_token_ms", 1e3 * (end - beside.submitted)},
                      {"num_gaps", gaps.size()},
                      {"inter_token_ms", percentiles_json(gaps)}};
  }
  return json;
}

std::string percentile_line(const std::string& name, const OrderedJson& values) {
  if (values.is_null()) return "";
  return fmt::format("{:<36} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}\n", name,
                     values["p50"].get<double>(), values["p90"].get<double>(),
                     values["p99"].get<double>(), values["max"].get<double>());
}

std::string result_text(const LoadShape& shape, const OrderedJson& result) {
  std::string text = fmt::format(
      "{} requests of {} tokens in, {} out; {} at once{}\n\n"
      "{:.2f} s, {:.2f} requests/s, output {:.1f} tokens/s, input and output {:.1f} tokens/s\n"
      "{} steps, {} preemptions\n\n"
      "{:<36} {:>10} {:>10} {:>10} {:>10}\n",
      shape.num_requests, with_commas(shape.input), with_commas(shape.output), shape.concurrency,
      shape.rate > 0 ? fmt::format(", {} a second arriving", shape.rate) : "",
      result["seconds"].get<double>(), result["requests_per_second"].get<double>(),
      result["output_tokens_per_second"].get<double>(),
      result["total_tokens_per_second"].get<double>(), result["num_steps"].get<std::int64_t>(),
      result["num_preemptions"].get<std::int64_t>(), "milliseconds", "p50", "p90", "p99", "most");
  text += percentile_line("time to first token", result["time_to_first_token_ms"]);
  text += percentile_line("inter-token latency", result["inter_token_ms"]);
  text += percentile_line("end to end", result["end_to_end_ms"]);
  if (result.contains("beside")) {
    const OrderedJson& beside = result["beside"];
    text += percentile_line(fmt::format("inter-token beside {} tokens", with_commas(shape.beside)),
                            beside["inter_token_ms"]);
    text += fmt::format("\nthat prompt's first token after {:.1f} ms\n",
                        beside["time_to_first_token_ms"].get<double>());
  }
  return text;
}

int run_throughput(const ThroughputOptions& options) {
  set_up_log(options.output.verbosity());
  refuse_debug_build();
  LoadShape shape;
  shape.num_requests = integer_of(options.requests, 1).value_or(256);
  shape.input = integer_of(options.input, 1).value_or(1024);
  shape.output = integer_of(options.generated, 1).value_or(256);
  shape.concurrency =
      std::min(integer_of(options.concurrency, 1).value_or(shape.num_requests), shape.num_requests);
  shape.beside = integer_of(options.beside, 1).value_or(0);
  if (const auto rate = value_of(options.rate)) {
    try {
      shape.rate = parse_number(*rate);
    } catch (const std::invalid_argument& error) {
      throw UsageError(std::string("--request-rate: ") + error.what());
    }
    if (shape.rate <= 0) throw UsageError("--request-rate: must be above 0, not " + *rate);
  }
  const auto seed = static_cast<std::uint64_t>(integer_of(options.seed, 0).value_or(1));

  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  require_model(settings);
  const std::unique_ptr<Engine> engine = open_engine(settings);
  const EngineInfo& info = engine->info();
  RandomPrompts prompts(info.vocab_size, seed);
  const InterruptScope interrupts;
  warm_up(*engine, prompts,
          static_cast<std::size_t>(std::min<std::int64_t>(shape.concurrency, info.max_num_seqs)));
  if (const int signal = interrupt_signal(); signal != 0) return 128 + signal;
  const EngineStats before = engine->stats();
  const Measured measured = run_load(*engine, prompts, shape, seed);
  if (const int signal = interrupt_signal(); signal != 0) return 128 + signal;
  const OrderedJson result = result_json(shape, measured, before, engine->stats());
  if (options.output.json()) {
    OrderedJson json = environment_json(settings, info, seed);
    json["peak_memory_bytes"] = peak_memory_bytes();
    json.update(result);
    write_json(json);
  } else {
    write_stdout(environment_text(settings, info, seed) + result_text(shape, result));
  }
  return 0;
}

}  // namespace

Command add_throughput_bench(CLI::App& bench) {
  CLI::App* throughput = bench.add_subcommand(
      "throughput", "Many requests at once: tokens a second, and how long they wait for each");
  throughput->group("Commands");
  throughput->footer(
      "Examples:\n"
      "  moba bench throughput -m DIR --num-requests 256 -p 1024 -n 256\n"
      "  moba bench throughput -m DIR --num-requests 32 --beside-prompt 131072");
  const auto options = std::make_shared<ThroughputOptions>(*throughput);
  return {throughput, [options] { return run_throughput(*options); }};
}

}  // namespace moba::cli
