// moba batch: answers a file of requests.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moba/chat_template.h"
#include "moba/engine.h"
#include "tools/batch/batch_run.h"
#include "tools/batch/prompt_file.h"
#include "tools/batch/resume.h"
#include "tools/batch/run_id.h"
#include "tools/moba/engine_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/signals.h"

namespace moba::batch {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDefaultLookAhead = 1024;
constexpr std::int64_t kMaxTemplateBytes = std::int64_t{1} << 20;

struct Options {
  explicit Options(CLI::App& app)
      : settings(app, {cli::SettingScope::kModel, cli::SettingScope::kEngine,
                       cli::SettingScope::kServing, cli::SettingScope::kAttention,
                       cli::SettingScope::kSampling}),
        reports(app, /*log=*/true) {
    constexpr const char* kGroup = "Batch";
    input =
        app.add_option("INPUT", "File of requests, one JSON object a line; - is standard input");
    input->required()->type_name("")->group("Arguments");
    output = cli::add_text_option(app, "-o,--output", "FILE",
                                  "Results go here, and it tells what is done already; - is "
                                  "standard output",
                                  kGroup);
    errors = cli::add_text_option(app, "-e,--error-file", "FILE",
                                  "Lines that failed go here (default: the output's name with "
                                  ".errors before its extension)",
                                  kGroup);
    ordered = cli::add_bool_option(app, "--ordered", "Results in the order of the input", kGroup);
    shard = cli::add_text_option(
        app, "--shard", "I/N", "Only part I of N equal parts of the input, I from 1 to N", kGroup);
    look_ahead = cli::add_text_option(
        app, "--look-ahead", "N",
        "Lines that are read before their results are written, to find those that begin alike "
        "(default: " +
            std::to_string(kDefaultLookAhead) + ", at most 256 MiB of them)",
        kGroup);
    parse_special = cli::add_bool_option(
        app, "--parse-special",
        "Read text such as </s> in prompts of completions as that special token (default: off)",
        kGroup);
    chat_template = cli::add_text_option(app, "--chat-template", "FILE",
                                         "Template for chat completions, in the Jinja language "
                                         "(default: the checkpoint's)",
                                         kGroup);
    settings.add_greedy();
  }
  CLI::Option* input = nullptr;
  CLI::Option* output = nullptr;
  CLI::Option* errors = nullptr;
  CLI::Option* ordered = nullptr;
  CLI::Option* shard = nullptr;
  CLI::Option* look_ahead = nullptr;
  CLI::Option* parse_special = nullptr;
  CLI::Option* chat_template = nullptr;
  cli::SettingOptions settings;
  cli::OutputOptions reports;
};

// "out.jsonl" gives "out.errors.jsonl".
std::string error_path(const std::string& output) {
  const fs::path path(output);
  fs::path name = path.stem();
  name += ".errors";
  name += path.extension();
  return (path.parent_path() / name).string();
}

Shard shard_of(const CLI::Option* option) {
  const std::optional<std::string> text = cli::value_of(option);
  if (!text) return {};
  try {
    return parse_shard(*text);
  } catch (const std::invalid_argument& error) {
    throw cli::UsageError(std::string("--shard: ") + error.what());
  }
}

// The given template or the checkpoint's; absent if there is none.
std::optional<ChatTemplateHandle> chat_template_of(const CLI::Option* option,
                                                   const std::string& model,
                                                   const TokenizerHandle& tokenizer) {
  if (const auto path = cli::value_of(option)) {
    return cli::take(ChatTemplateHandle::open_file(*path, tokenizer));
  }
  Result<ChatTemplateHandle> own = ChatTemplateHandle::open(model, tokenizer);
  if (own.ok()) return std::move(own.value());
  if (own.status().code() != StatusCode::kInvalidArgument) cli::throw_status(own.status());
  return std::nullopt;
}

// A hash of all that decides what a request comes to, beside the request.
std::uint64_t run_of(const cli::Settings& settings, bool parse_special,
                     const std::optional<std::string>& chat_template) {
  cli::OrderedJson json = cli::settings_json(settings);
  for (const char* key : {"threads", "kv_cache_memory", "block_size", "max_num_batched_tokens",
                          "max_num_seqs", "max_num_queued"}) {
    json.erase(key);
  }
  std::error_code ignored;
  json["model"] = fs::weakly_canonical(settings.engine.model, ignored).string();
  json["parse_special"] = parse_special;
  if (chat_template) json["chat_template"] = cli::read_input(*chat_template, kMaxTemplateBytes);
  return hash_bytes(json.dump(-1, ' ', false, cli::OrderedJson::error_handler_t::replace)).low;
}

std::string name_of_model(const std::string& path) {
  std::error_code ignored;
  const fs::path full = fs::weakly_canonical(path, ignored);
  return full.has_filename() ? full.filename().string() : full.parent_path().filename().string();
}

void refuse_same_file(bool same, const std::string& what, const std::string& other) {
  if (same) throw cli::CommandError(what + " and " + other + " are the same file");
}

void log_summary(const BatchSummary& summary, const ResultFile& output) {
  const std::int64_t finished = summary.num_done + summary.num_failed;
  std::string before;
  if (summary.num_skipped > 0) {
    before = fmt::format(", {} were there before", cli::with_commas(summary.num_skipped));
  }
  spdlog::info("batch: {} requests in {:.1f} s, {} answered, {} failed{}",
               cli::with_commas(finished), summary.seconds, cli::with_commas(summary.num_done),
               cli::with_commas(summary.num_failed), before);
  const std::int64_t computed =
      summary.num_prompt_tokens - summary.num_cached_tokens + summary.num_output_tokens;
  spdlog::info(
      "batch: prompts {} tokens, {} of them found in the cache; outputs {} tokens, {:.1f} "
      "tok/s; {:.0f} tok/s computed in all",
      cli::with_commas(summary.num_prompt_tokens), cli::with_commas(summary.num_cached_tokens),
      cli::with_commas(summary.num_output_tokens),
      cli::ratio(static_cast<double>(summary.num_output_tokens), summary.seconds),
      cli::ratio(static_cast<double>(computed), summary.seconds));
  spdlog::info("batch: results in {}", output.name());
}

void print_summary(const cli::Settings& settings, const Engine& engine,
                   const BatchSummary& summary) {
  cli::OrderedJson json = cli::engine_json(settings, engine.info());
  json["num_answered"] = summary.num_done;
  json["num_failed"] = summary.num_failed;
  json["num_skipped"] = summary.num_skipped;
  json["num_prompt_tokens"] = summary.num_prompt_tokens;
  json["num_cached_tokens"] = summary.num_cached_tokens;
  json["num_output_tokens"] = summary.num_output_tokens;
  json["seconds"] = summary.seconds;
  json["interrupted"] = summary.interrupted;
  json["memory"] = cli::memory_json(engine.info());
  cli::write_json(json);
}

int run(const Options& options) {
  cli::set_up_log(options.reports.verbosity());
  const std::vector<cli::SettingValue> values = options.settings.collect();
  cli::Settings settings;
  cli::apply_settings(values, /*sampling=*/false, settings);
  cli::require_model(settings);
  const std::optional<std::string> output_path = cli::value_of(options.output);
  if (!output_path) throw cli::UsageError("no output: give -o FILE");
  const Shard shard = shard_of(options.shard);
  const auto look_ahead =
      static_cast<std::size_t>(cli::integer_of(options.look_ahead, 1).value_or(kDefaultLookAhead));
  const bool json = options.reports.json();
  if (json && *output_path == "-") {
    throw cli::UsageError("--json and -o - both want standard output");
  }

  // Files first: a mistake there shows before the model is loaded.
  const std::string input_path = options.input->results().back();
  const InputFile input(input_path);
  if (shard.count > 1 && !input.is_regular()) {
    throw cli::CommandError("--shard needs a regular file, and " + input.name() + " is none");
  }
  ResultFile output(*output_path);
  refuse_same_file(output.is_same_fd(input.fd()) && input.is_regular(), "input", "output");
  std::optional<ResultFile> error_file;
  if (const auto path = cli::value_of(options.errors)) {
    error_file.emplace(*path);
  } else if (output.is_regular()) {
    error_file.emplace(error_path(*output_path));
  }
  ResultFile* errors = error_file ? &*error_file : nullptr;
  if (errors != nullptr) {
    refuse_same_file(errors->is_same(output) || *output_path == cli::value_of(options.errors),
                     "output", "error file");
    refuse_same_file(errors->is_same_fd(input.fd()), "input", "error file");
  }

  const std::unique_ptr<Engine> engine = cli::take(Engine::create(settings.engine));
  settings.sampling = engine->default_sampling();
  cli::apply_settings(values, /*sampling=*/true, settings);
  cli::log_settings(settings);

  BatchOptions batch;
  batch.read.shard = shard;
  batch.read.parse.defaults = settings.sampling;
  batch.read.parse.parse_special_tokens = cli::flag_value(options.parse_special, false);
  batch.read.parse.allow_prompt_file = true;
  const std::optional<ChatTemplateHandle> chat_template =
      chat_template_of(options.chat_template, settings.engine.model, engine->tokenizer());
  batch.read.run =
      run_of(settings, batch.read.parse.parse_special_tokens, cli::value_of(options.chat_template));
  batch.ordered = cli::flag_value(options.ordered, false);
  batch.look_ahead = look_ahead;
  batch.max_in_flight = 2 * static_cast<std::size_t>(engine->info().max_num_seqs);
  batch.model_name = name_of_model(settings.engine.model);
  batch.show_progress = options.reports.verbosity() != cli::Verbosity::kQuiet;

  const std::atomic<bool> never{false};
  Finished before = find_finished(input, shard, batch.read.run, output, errors, never);
  output.create();
  const fs::path folder = input_path == "-" ? fs::path(".") : fs::path(input_path).parent_path();
  const openai::PromptContext prompts{
      engine->tokenizer(), chat_template ? &*chat_template : nullptr,
      [folder](const std::string& path) { return read_prompt_file(folder, path); }};

  const BatchSummary summary =
      run_batch(*engine, input, std::move(before.done), output, errors, prompts, batch);
  output.sync();
  if (errors != nullptr) errors->sync();
  log_summary(summary, output);
  cli::log_memory(engine->info());
  if (json) print_summary(settings, *engine, summary);
  if (summary.interrupted) {
    spdlog::info("batch: stopped; the same command goes on where this one ended");
    return 128 + cli::interrupt_signal();
  }
  const std::int64_t num_failed = before.num_failed + summary.num_failed;
  if (num_failed > 0) {
    throw cli::CommandError(cli::with_commas(num_failed) +
                            (num_failed == 1 ? " request" : " requests") + " failed: see " +
                            (errors != nullptr ? errors->name() : output.name()));
  }
  return 0;
}

}  // namespace
}  // namespace moba::batch

namespace moba::cli {

Command add_batch(CLI::App& program) {
  CLI::App* app = program.add_subcommand("batch", "Answer a file of requests");
  app->group("Commands");
  const auto options = std::make_shared<batch::Options>(*app);
  app->footer(
      "A line of the input, in the format of OpenAI's batches:\n"
      "  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/completions\",\n"
      "   \"body\": {\"prompt\": \"Once upon a time\", \"max_tokens\": 20}}\n"
      "Example:\n"
      "  moba batch -m configs/models/moba-books-19m requests.jsonl -o results.jsonl\n"
      "Ended at any moment and started again, the same command does what is left.");
  return {app, [options] { return batch::run(*options); }};
}

}  // namespace moba::cli
