// moba perplexity: how well a model predicts a text, with full and sparse attention.
#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "moba/engine.h"
#include "tools/moba/engine_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/perplexity_plan.h"
#include "tools/moba/progress.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

struct MeasuringOptions {
  explicit MeasuringOptions(CLI::App& app) {
    constexpr const char* kGroup = "Measuring";
    num_tokens = add_text_option(app, "-n,--num-tokens,--max-tokens", "N",
                                 "Only the first N tokens, BOS included (default: all)", kGroup);
    window = add_text_option(app, "--window", "N",
                             "Tokens the model sees at once, BOS included; longer texts are cut "
                             "into windows (default: the whole text, or the longest length of the "
                             "model if less)",
                             kGroup);
    stride = add_text_option(app, "--stride", "N",
                             "Windows start N tokens apart and each counts only its new tokens; "
                             "smaller is slower and gives every token more context (default: "
                             "windows side by side)",
                             kGroup);
    compare = add_bool_option(
        app, "--compare", "Measure with full attention too and print both (default: off)", kGroup);
  }
  CLI::Option* num_tokens;
  CLI::Option* window;
  CLI::Option* stride;
  CLI::Option* compare;
};

struct Options {
  explicit Options(CLI::App& app)
      : input(app, /*ids=*/true),
        measuring(app),
        settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kAttention}),
        output(app, /*log=*/true) {}
  InputOptions input;
  MeasuringOptions measuring;
  SettingOptions settings;
  OutputOptions output;
};

// The tokens to measure: text tokens, and the BOS that every window starts with.
struct Tokens {
  std::vector<std::int32_t> ids;
  std::optional<std::int32_t> bos;
};

// Of one attention mode over all windows.
struct Measurement {
  NllSums sums;
  double seconds = 0;
  std::int64_t blocks_attended = 0;
  std::int64_t blocks_available = 0;

  double perplexity() const { return std::exp(sums.mean()); }
};

Tokens read_tokens(const Options& options, const Settings& settings, InputText& input) {
  // Token ids need no tokenizer; a broken one is the engine's to refuse.
  const Result<TokenizerHandle> tokenizer = TokenizerHandle::open(settings.engine.model);
  Tokens tokens;
  tokens.ids = input.is_ids
                   ? std::move(input.ids)
                   : take(take(tokenizer).encode(input.text, options.input.add_special_tokens(),
                                                 options.input.parse_special()));
  if (const auto n = integer_of(options.measuring.num_tokens, 2);
      n && *n < static_cast<std::int64_t>(tokens.ids.size())) {
    tokens.ids.resize(static_cast<std::size_t>(*n));
  }
  const std::optional<std::int32_t> bos =
      tokenizer.ok() ? tokenizer.value().bos_id() : std::nullopt;
  if (bos && !tokens.ids.empty() && tokens.ids.front() == *bos) {
    tokens.bos = bos;
    tokens.ids.erase(tokens.ids.begin());
  }
  return tokens;
}

// Bytes of the scored tokens' text; 0 where the tokens do not decode.
std::int64_t scored_bytes(const TokenizerHandle& tokenizer, const Tokens& tokens) {
  const auto bytes = [&](const std::vector<std::int32_t>& ids) {
    const Result<std::string> text = tokenizer.decode(ids, /*skip_special_tokens=*/false);
    return text.ok() ? static_cast<std::int64_t>(text.value().size()) : std::int64_t{0};
  };
  const std::int64_t all = bytes(tokens.ids);
  return tokens.bos ? all : all - bytes({tokens.ids.front()});
}

class Measurer {
 public:
  Measurer(Engine& engine, const Tokens& tokens, const std::vector<Window>& windows, bool progress)
      : engine_(engine), tokens_(tokens), windows_(windows), progress_(progress) {}

  // Nothing if a signal asked to end.
  std::optional<Measurement> run(const AttentionOverride& attention, const std::string& label) {
    const InterruptScope interrupts;
    ProgressBar bar(label, progress_);
    Measurement result;
    const auto start = std::chrono::steady_clock::now();
    std::int64_t done = 0;
    for (const Window& window : windows_) {
      Callbacks callbacks;
      callbacks.on_prompt = [&](std::int64_t computed, std::int64_t) {
        bar.update(done + computed, total());
        return interrupt_signal() == 0;
      };
      const Request request = make_request(window, attention);
      const RequestOutput output = take(engine_.generate(request, callbacks));
      if (output.finish_reason == FinishReason::kCancelled || interrupt_signal() != 0) return {};
      add(window, request, output, result);
      done += static_cast<std::int64_t>(request.prompt_ids.size());
    }
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

  // Tokens the model reads over all windows.
  std::int64_t total() const {
    std::int64_t sum = 0;
    for (const Window& w : windows_) sum += w.end - w.begin + (tokens_.bos ? 1 : 0);
    return sum;
  }

 private:
  Request make_request(const Window& window, const AttentionOverride& attention) const {
    Request request;
    request.prompt_ids.assign(tokens_.ids.begin() + window.begin, tokens_.ids.begin() + window.end);
    if (tokens_.bos) request.prompt_ids.insert(request.prompt_ids.begin(), *tokens_.bos);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = 0;
    request.sampling.prompt_logprobs = 0;
    request.attention = attention;
    return request;
  }

  void add(const Window& window, const Request& request, const RequestOutput& output,
           Measurement& result) const {
    const std::size_t num_tokens = request.prompt_ids.size();
    if (output.prompt_logprobs.size() + 1 != num_tokens) {
      throw CommandError("the engine gave " + std::to_string(output.prompt_logprobs.size()) +
                         " log probabilities for " + std::to_string(num_tokens) + " tokens");
    }
    const std::int64_t shift = tokens_.bos ? 1 : 0;  // position of text token `begin`
    for (std::int64_t i = window.first_scored; i < window.end; ++i) {
      const std::int64_t position = i - window.begin + shift;
      const double logprob = output.prompt_logprobs[static_cast<std::size_t>(position - 1)].logprob;
      if (std::isnan(logprob)) {
        throw CommandError("the model's log probability of token " + std::to_string(i) +
                           " is not a number");
      }
      result.sums.add(position, -logprob);
    }
    result.blocks_attended += output.metrics.moba_blocks_attended;
    result.blocks_available += output.metrics.moba_blocks_available;
  }

  Engine& engine_;
  const Tokens& tokens_;
  const std::vector<Window>& windows_;
  bool progress_;
};

double bits_per_byte(const Measurement& m, std::int64_t num_bytes) {
  return ratio(m.sums.nll() / std::log(2.0), static_cast<double>(num_bytes));
}

OrderedJson measurement_json(const Measurement& m, std::int64_t num_bytes, std::int64_t read) {
  OrderedJson buckets = OrderedJson::array();
  for (const NllSums::Bucket& b : m.sums.buckets()) {
    buckets.push_back({{"begin", b.begin},
                       {"end", b.end},
                       {"num_tokens", b.num_tokens},
                       {"mean_nll", b.mean()},
                       {"perplexity", std::exp(b.mean())}});
  }
  OrderedJson json{{"mean_nll", m.sums.mean()}, {"perplexity", m.perplexity()}};
  json["bits_per_byte"] = num_bytes > 0 ? OrderedJson(bits_per_byte(m, num_bytes)) : OrderedJson();
  json["buckets"] = buckets;
  json["moba_blocks_attended"] = m.blocks_attended;
  json["moba_blocks_available"] = m.blocks_available;
  json["seconds"] = m.seconds;
  json["tokens_per_second"] = ratio(static_cast<double>(read), m.seconds);
  return json;
}

// One line of the table; with `other` the columns of full attention too.
std::string table_line(const std::string& name, std::int64_t num_tokens, double mean,
                       std::optional<double> other) {
  std::string line = fmt::format("{:<12} {:>10} {:>10.4f} {:>12.3f}", name, with_commas(num_tokens),
                                 mean, std::exp(mean));
  if (other) {
    line += fmt::format(" {:>10.4f} {:>12.3f} {:>+9.2f}%", *other, std::exp(*other),
                        100 * (std::exp(mean - *other) - 1));
  }
  return line + "\n";
}

std::string table(const Measurement& m, const std::optional<Measurement>& full,
                  std::int64_t num_bytes) {
  std::string text =
      fmt::format("{:<12} {:>10} {:>10} {:>12}", "position", "tokens", "mean NLL", "perplexity");
  if (full) text += fmt::format(" {:>10} {:>12} {:>10}", "full: NLL", "perplexity", "difference");
  text += "\n";
  const std::vector<NllSums::Bucket> buckets = m.sums.buckets();
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    std::optional<double> other;
    if (full) other = full->sums.buckets()[i].mean();
    text += table_line(buckets[i].name(), buckets[i].num_tokens, buckets[i].mean(), other);
  }
  std::optional<double> other;
  if (full) other = full->sums.mean();
  text += table_line("all", m.sums.num_tokens(), m.sums.mean(), other);
  if (num_bytes > 0) {
    text += fmt::format("bits per byte {:.4f}", bits_per_byte(m, num_bytes));
    if (full) text += fmt::format(", with full attention {:.4f}", bits_per_byte(*full, num_bytes));
    text += "\n";
  }
  return text;
}

void log_speed(const std::string& name, const Measurement& m, std::int64_t read) {
  std::string line =
      fmt::format("{}: {} tokens read in {:.2f} s, {:.1f} tok/s", name, with_commas(read),
                  m.seconds, ratio(static_cast<double>(read), m.seconds));
  if (m.blocks_available > 0) {
    line += fmt::format("; MoBA layers attended to {:.1f}% of their blocks",
                        100 * ratio(static_cast<double>(m.blocks_attended),
                                    static_cast<double>(m.blocks_available)));
  }
  spdlog::info("{}", line);
}

bool has_moba(const EngineInfo& info) {
  for (const int topk : info.layer_topk) {
    if (topk > 0) return true;
  }
  return false;
}

// Windows for a text of these tokens in an engine of this longest length.
std::vector<Window> make_windows(const Tokens& tokens, std::int64_t window, std::int64_t stride,
                                 const std::string& name) {
  try {
    return plan_windows(static_cast<std::int64_t>(tokens.ids.size()), tokens.bos.has_value(),
                        window, stride);
  } catch (const std::invalid_argument& error) {
    throw CommandError(name + ": " + error.what());
  }
}

int run(const Options& options) {
  set_up_log(options.output.verbosity());
  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  require_model(settings);
  const std::optional<std::int64_t> asked_window = integer_of(options.measuring.window, 2);
  const std::int64_t stride = integer_of(options.measuring.stride, 1).value_or(0);
  const bool compare = flag_value(options.measuring.compare, false);
  InputText input = read_source(options.input.source());
  const Tokens tokens = read_tokens(options, settings, input);
  const std::int64_t text_tokens = static_cast<std::int64_t>(tokens.ids.size());
  const std::int64_t all_tokens = text_tokens + (tokens.bos ? 1 : 0);
  // Refuses a text, window or stride that cannot be served before the model is loaded.
  make_windows(tokens, asked_window.value_or(std::max<std::int64_t>(all_tokens, 2)), stride,
               input.name);

  // The cache is planned for the window, not for the longest sequence the model could take.
  if (settings.engine.max_model_len == 0 && asked_window) {
    settings.engine.max_model_len = std::min(*asked_window, all_tokens);
  }
  const std::unique_ptr<Engine> engine = open_engine(settings);
  const EngineInfo& info = engine->info();
  log_settings(settings);
  if (compare && !has_moba(info)) {
    throw CommandError(
        "--compare: no layer uses MoBA here; give --attention moba with "
        "--moba-block-size and --moba-topk");
  }
  const std::int64_t window = std::min(asked_window.value_or(info.max_model_len), all_tokens);
  const std::vector<Window> windows = make_windows(tokens, window, stride, input.name);

  Measurer measurer(*engine, tokens, windows, options.output.verbosity() != Verbosity::kQuiet);
  const std::optional<Measurement> measured = measurer.run({}, "measuring");
  if (!measured) return 128 + interrupt_signal();
  std::optional<Measurement> full;
  if (compare) {
    AttentionOverride attention;
    attention.mode = AttentionMode::kFull;
    full = measurer.run(attention, "measuring, full attention");
    if (!full) return 128 + interrupt_signal();
  }

  const std::int64_t num_bytes = scored_bytes(engine->tokenizer(), tokens);
  const std::int64_t read = measurer.total();
  if (options.output.json()) {
    OrderedJson json = engine_json(settings, info);
    json["input"] = input.name;
    json["num_tokens"] = all_tokens;
    json["num_scored_tokens"] = measured->sums.num_tokens();
    json["num_bytes"] = num_bytes;
    json["window"] = window;
    json["stride"] = stride == 0 ? window - 1 : stride;
    json["num_windows"] = windows.size();
    json.update(measurement_json(*measured, num_bytes, read));
    if (full) json["full_attention"] = measurement_json(*full, num_bytes, read);
    json["memory"] = memory_json(info);
    write_json(json);
  } else {
    write_stdout(fmt::format("{} tokens of {} in {} window{} of {}, {}\n{}\n",
                             with_commas(all_tokens), input.name, windows.size(),
                             windows.size() == 1 ? "" : "s", with_commas(window), info.dtype,
                             describe_attention(info.layer_topk, info.moba_block_size)));
    write_stdout(table(*measured, full, num_bytes));
  }
  log_speed(full ? "as configured" : "speed", *measured, read);
  if (full) log_speed("full attention", *full, read);
  log_memory(info);
  return 0;
}

}  // namespace

Command add_perplexity(CLI::App& program) {
  CLI::App* app = program.add_subcommand("perplexity", "Measure how well a model predicts a text");
  app->group("Commands");
  const auto options = std::make_shared<Options>(*app);
  app->footer(
      "Examples:\n"
      "  moba perplexity -m DIR -f book.txt -n 16384 --compare\n"
      "  moba perplexity -m DIR -f book.txt --window 8192 --attention full --json");
  return {app, [options] { return run(*options); }};
}

}  // namespace moba::cli
