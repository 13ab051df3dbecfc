// moba generate: continues a prompt.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <string>
#include <utility>

#include "moba/engine.h"
#include "tools/moba/engine_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/progress.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

constexpr int kDefaultMaxTokens = 256;

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kNone:
      break;
  }
  return "none";
}

std::string token_name(const TokenizerHandle& tokenizer, std::int32_t id) {
  const Result<std::string> name = tokenizer.token_name(id);
  return name.ok() ? name.value() : "";
}

OrderedJson logprobs_json(const TokenizerHandle& tokenizer, const std::vector<TokenLogprob>& list) {
  OrderedJson json = OrderedJson::array();
  for (const TokenLogprob& item : list) {
    OrderedJson top = OrderedJson::array();
    for (const auto& [id, logprob] : item.top) {
      top.push_back({{"token_id", id}, {"token", token_name(tokenizer, id)}, {"logprob", logprob}});
    }
    json.push_back({{"token_id", item.token_id},
                    {"token", token_name(tokenizer, item.token_id)},
                    {"logprob", item.logprob},
                    {"top", top}});
  }
  return json;
}

void print_logprobs(const TokenizerHandle& tokenizer, const std::vector<TokenLogprob>& list) {
  for (const TokenLogprob& item : list) {
    std::string line = fmt::format("{:>7} {:9.4f}  {}", item.token_id, item.logprob,
                                   token_name(tokenizer, item.token_id));
    for (const auto& [id, logprob] : item.top) {
      line += fmt::format("  | {} {:.4f}", token_name(tokenizer, id), logprob);
    }
    spdlog::info("logprob: {}", line);
  }
}

double decode_rate(const RequestMetrics& metrics) {
  return ratio(static_cast<double>(metrics.num_output_tokens - 1), metrics.decode_seconds);
}

double prompt_rate(const RequestMetrics& metrics) {
  return ratio(static_cast<double>(metrics.num_prompt_tokens), metrics.prompt_seconds);
}

// Why the output ended, for people.
std::string end_of(const RequestOutput& output, const SamplingParams& sampling) {
  switch (output.finish_reason) {
    case FinishReason::kStop:
      return output.stop_reason.empty() ? "stopped" : "stopped at " + output.stop_reason;
    case FinishReason::kLength:
      return sampling.max_tokens && output.metrics.num_output_tokens >= *sampling.max_tokens
                 ? "ended by --max-tokens"
                 : "ended at the longest length";
    case FinishReason::kCancelled:
      return "interrupted";
    case FinishReason::kNone:
      break;
  }
  return "ended";
}

void log_statistics(const RequestOutput& output, const SamplingParams& sampling,
                    const EngineInfo& info) {
  const RequestMetrics& m = output.metrics;
  if (output.finish_reason == FinishReason::kCancelled && m.num_output_tokens == 0) {
    spdlog::info("interrupted while reading the prompt of {} tokens",
                 with_commas(m.num_prompt_tokens));
  } else {
    spdlog::info("prompt: {} tokens in {:.3f} s, {:.1f} tok/s; first token after {:.3f} s",
                 with_commas(m.num_prompt_tokens), m.prompt_seconds, prompt_rate(m),
                 m.time_to_first_token_seconds);
    std::string line = fmt::format("output: {} token{}", with_commas(m.num_output_tokens),
                                   m.num_output_tokens == 1 ? "" : "s");
    if (m.num_output_tokens > 1) {
      line += fmt::format(" in {:.3f} s, {:.1f} tok/s", m.decode_seconds, decode_rate(m));
    }
    spdlog::info("{}; {}", line, end_of(output, sampling));
  }
  if (m.moba_blocks_attended < m.moba_blocks_available) {
    spdlog::info("MoBA layers attended to {:.1f}% of their blocks",
                 100 * ratio(static_cast<double>(m.moba_blocks_attended),
                             static_cast<double>(m.moba_blocks_available)));
  }
  log_memory(info);
}

OrderedJson metrics_json(const RequestMetrics& m, const EngineInfo& info) {
  return {{"prompt_seconds", m.prompt_seconds},
          {"prompt_tokens_per_second", prompt_rate(m)},
          {"time_to_first_token_seconds", m.time_to_first_token_seconds},
          {"decode_seconds", m.decode_seconds},
          {"decode_tokens_per_second", decode_rate(m)},
          {"moba_blocks_attended", m.moba_blocks_attended},
          {"moba_blocks_available", m.moba_blocks_available},
          {"memory", memory_json(info)}};
}

void print_json(const Settings& settings, const Engine& engine, const RequestOutput& output) {
  const TokenizerHandle& tokenizer = engine.tokenizer();
  OrderedJson json = engine_json(settings, engine.info());
  json["num_prompt_tokens"] = output.metrics.num_prompt_tokens;
  json["num_output_tokens"] = output.metrics.num_output_tokens;
  json["text"] = output.text;
  json["token_ids"] = output.token_ids;
  json["finish_reason"] = finish_name(output.finish_reason);
  json["stop_reason"] =
      output.stop_reason.empty() ? OrderedJson() : OrderedJson(output.stop_reason);
  if (settings.sampling.logprobs) json["logprobs"] = logprobs_json(tokenizer, output.logprobs);
  if (settings.sampling.prompt_logprobs) {
    json["prompt_logprobs"] = logprobs_json(tokenizer, output.prompt_logprobs);
  }
  json["metrics"] = metrics_json(output.metrics, engine.info());
  json["sampling"] = settings_json(settings).at("sampling");
  write_json(json);
}

struct Options {
  explicit Options(CLI::App& app)
      : input(app, /*ids=*/true),
        settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kAttention,
                       SettingScope::kSampling}),
        output(app, /*log=*/true) {
    settings.add_greedy();
  }
  InputOptions input;
  SettingOptions settings;
  OutputOptions output;
};

Request make_request(const Options& options, const TokenizerHandle& tokenizer, InputText input,
                     const SamplingParams& sampling) {
  Request request;
  request.sampling = sampling;
  if (input.is_ids) {
    request.prompt_ids = std::move(input.ids);
  } else if (options.input.add_special_tokens()) {
    request.prompt = std::move(input.text);
    request.parse_special_tokens = options.input.parse_special();
  } else {
    request.prompt_ids = take(
        tokenizer.encode(input.text, /*add_special_tokens=*/false, options.input.parse_special()));
  }
  return request;
}

// The prompt as given, without the newline that editors and echo put at the end of a file.
InputText read_prompt(const TextSource& source) {
  InputText input = read_source(source);
  if (!source.text && !input.text.empty() && input.text.back() == '\n') {
    input.text.pop_back();
    if (!input.text.empty() && input.text.back() == '\r') input.text.pop_back();
  }
  if (input.is_ids ? input.ids.empty() : input.text.empty()) {
    throw CommandError(source.text ? "the prompt is empty"
                                   : "the prompt is empty: " + input.name + " holds nothing");
  }
  return input;
}

void fill_sampling(const std::vector<SettingValue>& values, const Engine& engine,
                   Settings& settings) {
  settings.sampling = engine.default_sampling();
  if (!settings.sampling.max_tokens) settings.sampling.max_tokens = kDefaultMaxTokens;
  apply_settings(values, /*sampling=*/true, settings);
  if (!settings.sampling.seed && settings.sampling.temperature > 0) {
    settings.sampling.seed = std::random_device{}();
    spdlog::info("seed: {}", *settings.sampling.seed);
  }
}

// Runs the request and streams its text. Returns with the text written as far as the output took
// it.
RequestOutput stream(Engine& engine, const Request& request, bool show_text, bool show_progress) {
  const InterruptScope interrupts;
  ProgressBar bar("reading the prompt", show_progress);
  std::size_t streamed = 0;
  std::exception_ptr failure;  // of the output; the engine's thread must not see it
  Callbacks callbacks;
  callbacks.on_prompt = [&](std::int64_t computed, std::int64_t total) {
    bar.update(computed, total);
    return interrupt_signal() == 0;
  };
  callbacks.on_token = [&](const TokenEvent& event) {
    bar.clear();
    if (show_text) {
      try {
        write_stdout(event.text);
        streamed += event.text.size();
      } catch (const OutputError&) {
        failure = std::current_exception();
        return false;
      }
    }
    return interrupt_signal() == 0;
  };
  RequestOutput output = take(engine.generate(request, callbacks));
  bar.clear();
  if (failure) std::rethrow_exception(failure);
  if (show_text && output.text.size() > streamed) write_stdout(output.text.substr(streamed));
  return output;
}

int run(const Options& options) {
  set_up_log(options.output.verbosity());
  const std::vector<SettingValue> values = options.settings.collect();
  Settings settings;
  apply_settings(values, /*sampling=*/false, settings);
  require_model(settings);
  InputText input = read_prompt(options.input.source());

  const std::unique_ptr<Engine> engine = open_engine(settings);
  fill_sampling(values, *engine, settings);
  log_settings(settings);

  const bool json = options.output.json();
  const Request request =
      make_request(options, engine->tokenizer(), std::move(input), settings.sampling);
  const RequestOutput output =
      stream(*engine, request, !json, options.output.verbosity() != Verbosity::kQuiet);
  if (json) {
    print_json(settings, *engine, output);
  } else {
    if (::isatty(STDOUT_FILENO) == 1) write_stdout("\n");
    if (settings.sampling.logprobs) print_logprobs(engine->tokenizer(), output.logprobs);
  }
  log_statistics(output, settings.sampling, engine->info());
  return interrupt_signal() == 0 ? 0 : 128 + interrupt_signal();
}

}  // namespace

Command add_generate(CLI::App& program) {
  CLI::App* app = program.add_subcommand("generate", "Continue a prompt");
  app->group("Commands");
  const auto options = std::make_shared<Options>(*app);
  app->footer(
      "The text goes to standard output as it comes, log and statistics to standard error.\n"
      "Examples:\n"
      "  moba generate -m configs/models/moba-books-19m -p \"It was a dark night\" -n 64\n"
      "  moba generate -m DIR -f book.txt --attention full --temp 0.8 --seed 7 --json");
  return {app, [options] { return run(*options); }};
}

}  // namespace moba::cli
