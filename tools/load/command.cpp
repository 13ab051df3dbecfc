// moba bench serve: how a server does under load.
#include <spdlog/fmt/fmt.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "server/openai/api_error.h"
#include "tools/load/load_run.h"
#include "tools/moba/bench.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/output.h"
#include "tools/moba/parse.h"
#include "tools/moba/progress.h"
#include "tools/moba/signals.h"

namespace moba::load {
namespace {

constexpr std::int64_t kMaxLength = 1 << 30;

struct Options {
  explicit Options(CLI::App& app) : output(app, /*log=*/true) {
    constexpr const char* kGroup = "Load";
    const auto add = [&app](const char* flag, const char* value, const char* help) {
      return cli::add_text_option(app, flag, value, help, kGroup);
    };
    host = add("--host", "HOST", "Where the server is (default: 127.0.0.1)");
    port = add("--port", "N", "Its port (default: 8000)");
    api_key = add("--api-key", "KEY", "Its key (default: none)");
    requests = add("--num-requests", "N", "Requests in all (default: 256)");
    input = add("-p,--input-tokens", "N", "Tokens of each prompt (default: 1024)");
    generated = add("-n,--output-tokens", "N", "Tokens to generate for each (default: 128)");
    range = add("--range-ratio", "X",
                "Lengths are drawn evenly from (1 - X) to (1 + X) times those (default: 0)");
    dataset = add("--dataset", "FILE",
                  "Prompts in place of random ones: lines of {\"prompt\": text or token ids, "
                  "\"output_tokens\": N}");
    rate = add("--request-rate", "X",
               "Requests a second that arrive, at random times (default: all at once)");
    concurrency = add("--concurrency", "N",
                      "Requests under way at once; another one is sent when one has ended "
                      "(default: no limit)");
    temperature = add("--temperature", "X", "Of sampling (default: 0)");
    seed = add("--seed", "N", "Of prompts, lengths and arrivals (default: 1)");
    stop_at_eos = cli::add_bool_option(app, "--stop-at-eos",
                                       "End answers where the model does (default: off)", kGroup);
  }
  CLI::Option* host;
  CLI::Option* port;
  CLI::Option* api_key;
  CLI::Option* requests;
  CLI::Option* input;
  CLI::Option* generated;
  CLI::Option* range;
  CLI::Option* dataset;
  CLI::Option* rate;
  CLI::Option* concurrency;
  CLI::Option* temperature;
  CLI::Option* seed;
  CLI::Option* stop_at_eos;
  cli::OutputOptions output;
};

double number_of(const CLI::Option* option, double least, double otherwise) {
  const std::optional<std::string> text = cli::value_of(option);
  if (!text) return otherwise;
  try {
    const double value = cli::parse_number(*text);
    if (value < least) throw std::invalid_argument("is too small: " + *text);
    return value;
  } catch (const std::invalid_argument& error) {
    throw cli::UsageError(option->get_name() + ": " + error.what());
  }
}

std::int64_t length_of(const CLI::Option* option, std::int64_t otherwise) {
  const std::int64_t value = cli::integer_of(option, 1).value_or(otherwise);
  if (value > kMaxLength) throw cli::UsageError(option->get_name() + ": is too large");
  return value;
}

PlanOptions plan_options(const Options& options) {
  PlanOptions plan;
  plan.num_requests = length_of(options.requests, plan.num_requests);
  plan.input_tokens = length_of(options.input, plan.input_tokens);
  plan.output_tokens = length_of(options.generated, plan.output_tokens);
  plan.range = number_of(options.range, 0, 0);
  if (plan.range >= 1) throw cli::UsageError("--range-ratio: expected less than 1");
  plan.rate = number_of(options.rate, 0, 0);
  plan.temperature = number_of(options.temperature, 0, 0);
  plan.seed = static_cast<std::uint64_t>(cli::integer_of(options.seed, 0).value_or(1));
  plan.ignore_eos = !cli::flag_value(options.stop_at_eos, false);
  return plan;
}

// Mean and percentiles of seconds, in milliseconds.
struct Spread {
  explicit Spread(std::vector<double> seconds) {
    if (seconds.empty()) return;
    std::sort(seconds.begin(), seconds.end());
    const auto at = [&](double share) {
      const double rank = std::ceil(share * static_cast<double>(seconds.size())) - 1;
      return 1e3 * seconds[static_cast<std::size_t>(std::max(0.0, rank))];
    };
    mean = 1e3 * std::accumulate(seconds.begin(), seconds.end(), 0.0) /
           static_cast<double>(seconds.size());
    median = at(0.5);
    p90 = at(0.9);
    p99 = at(0.99);
  }
  double mean = 0;
  double median = 0;
  double p90 = 0;
  double p99 = 0;
};

struct Report {
  explicit Report(const LoadOutcome& outcome) : seconds(outcome.seconds) {
    std::vector<double> firsts;
    std::vector<double> per_token;
    std::vector<double> gaps;
    std::vector<double> whole;
    for (const LoadResult& result : outcome.results) {
      if (!result.error.empty()) {
        ++failed;
        continue;
      }
      ++succeeded;
      input += result.num_prompt_tokens;
      cached += result.num_cached_tokens;
      output += result.num_output_tokens;
      firsts.push_back(result.first_token_seconds);
      whole.push_back(result.last_token_seconds);
      gaps.insert(gaps.end(), result.gaps.begin(), result.gaps.end());
      if (result.num_output_tokens > 1) {
        per_token.push_back((result.last_token_seconds - result.first_token_seconds) /
                            static_cast<double>(result.num_output_tokens - 1));
      }
    }
    ttft = Spread(firsts);
    tpot = Spread(per_token);
    itl = Spread(gaps);
    e2e = Spread(whole);
  }

  double rate(std::int64_t count) const { return cli::ratio(static_cast<double>(count), seconds); }

  double seconds;
  std::int64_t succeeded = 0;
  std::int64_t failed = 0;
  std::int64_t input = 0;
  std::int64_t cached = 0;
  std::int64_t output = 0;
  Spread ttft{{}};
  Spread tpot{{}};
  Spread itl{{}};
  Spread e2e{{}};
};

std::string section(const char* title, const char* name, const Spread& spread) {
  std::string text = fmt::format("{:-^50}\n", title);
  const auto line = [&](const char* kind, double value) {
    text += fmt::format("{:<40} {:<9.2f}\n", fmt::format("{} {} (ms):", kind, name), value);
  };
  line("Mean", spread.mean);
  line("Median", spread.median);
  line("P90", spread.p90);
  line("P99", spread.p99);
  return text;
}

// As `vllm bench serve` prints it.
std::string text_of(const Report& report) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<40} {:<9}\n", name, value);
  };
  line("Successful requests:", std::to_string(report.succeeded));
  line("Failed requests:", std::to_string(report.failed));
  line("Benchmark duration (s):", fmt::format("{:.2f}", report.seconds));
  line("Total input tokens:", std::to_string(report.input));
  line("Total cached tokens:", std::to_string(report.cached));
  line("Total generated tokens:", std::to_string(report.output));
  line("Request throughput (req/s):", fmt::format("{:.2f}", report.rate(report.succeeded)));
  line("Output token throughput (tok/s):", fmt::format("{:.2f}", report.rate(report.output)));
  line("Total Token throughput (tok/s):",
       fmt::format("{:.2f}", report.rate(report.input + report.output)));
  text += section("Time to First Token", "TTFT", report.ttft);
  text += section("Time per Output Token (excl. 1st token)", "TPOT", report.tpot);
  text += section("Inter-token Latency", "ITL", report.itl);
  text += section("End-to-end Latency", "E2EL", report.e2e);
  text += std::string(50, '=') + "\n";
  return text;
}

cli::OrderedJson json_of(const Report& report) {
  cli::OrderedJson json{{"duration", report.seconds},
                        {"completed", report.succeeded},
                        {"failed", report.failed},
                        {"total_input_tokens", report.input},
                        {"total_cached_tokens", report.cached},
                        {"total_output_tokens", report.output},
                        {"request_throughput", report.rate(report.succeeded)},
                        {"output_throughput", report.rate(report.output)},
                        {"total_token_throughput", report.rate(report.input + report.output)}};
  const auto add = [&](const std::string& name, const Spread& spread) {
    json["mean_" + name + "_ms"] = spread.mean;
    json["median_" + name + "_ms"] = spread.median;
    json["p90_" + name + "_ms"] = spread.p90;
    json["p99_" + name + "_ms"] = spread.p99;
  };
  add("ttft", report.ttft);
  add("tpot", report.tpot);
  add("itl", report.itl);
  add("e2el", report.e2e);
  return json;
}

// The first name that the server gives its model.
std::string model_of(const Target& target) {
  const openai::Json json =
      openai::Json::parse(fetch(target, "/v1/models"), nullptr, /*allow_exceptions=*/false);
  try {
    return json.at("data").at(0).at("id").get<std::string>();
  } catch (const openai::Json::exception&) {
    throw cli::CommandError("GET /v1/models: the answer names no model");
  }
}

int run(const Options& options) {
  cli::set_up_log(options.output.verbosity());
  PlanOptions plan_of = plan_options(options);
  Target target;
  target.host = cli::value_of(options.host).value_or(target.host);
  target.port = cli::value_of(options.port).value_or(target.port);
  target.api_key = cli::value_of(options.api_key).value_or("");
  RunOptions run_options;
  run_options.concurrency = cli::integer_of(options.concurrency, 1).value_or(0);
  LoadOutcome outcome;
  try {
    plan_of.model = model_of(target);
    std::vector<PlannedRequest> plan;
    if (const auto path = cli::value_of(options.dataset)) {
      try {
        plan = plan_from_lines(cli::read_input(*path), plan_of);
      } catch (const std::invalid_argument& error) {
        throw cli::CommandError(*path + ": " + error.what());
      }
    } else {
      plan = plan_random(plan_of);
    }
    const cli::InterruptScope interrupts;
    cli::ProgressBar bar("requests", options.output.verbosity() != cli::Verbosity::kQuiet);
    run_options.on_progress = [&](std::int64_t done) {
      bar.update(done, plan_of.num_requests);
      return cli::interrupt_signal() == 0;
    };
    outcome = run_load(target, plan, run_options);
    bar.clear();
  } catch (const std::runtime_error& error) {
    throw cli::CommandError(error.what());
  }
  if (cli::interrupt_signal() != 0) return 128 + cli::interrupt_signal();
  const Report report(outcome);
  if (options.output.json()) {
    cli::write_json(json_of(report));
  } else {
    cli::write_stdout(text_of(report));
  }
  if (report.failed == 0) return 0;
  const auto failed = std::find_if(outcome.results.begin(), outcome.results.end(),
                                   [](const LoadResult& result) { return !result.error.empty(); });
  throw cli::CommandError(std::to_string(report.failed) +
                          " requests failed, the first with: " + failed->error);
}

}  // namespace
}  // namespace moba::load

namespace moba::cli {

Command add_serve_bench(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("serve", "Put a running server under load");
  const auto options = std::make_shared<load::Options>(*app);
  app->footer(
      "Any server of OpenAI's /v1/completions that streams, at HOST:PORT.\n"
      "Examples:\n"
      "  moba bench serve --num-requests 200 -p 512 -n 64 --request-rate 4\n"
      "  moba bench serve --concurrency 32 --dataset prompts.jsonl --json");
  return {app, [options] { return load::run(*options); }};
}

}  // namespace moba::cli
