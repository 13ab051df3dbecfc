// moba serve: the OpenAI API over HTTP.
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "moba/engine.h"
#include "server/http/server.h"
#include "tools/moba/engine_report.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/options.h"
#include "tools/moba/signals.h"
#include "tools/serve/serve_options.h"

namespace moba::serve {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);

struct Options {
  explicit Options(CLI::App& app)
      : server(app),
        settings(app, {cli::SettingScope::kModel, cli::SettingScope::kEngine,
                       cli::SettingScope::kServing, cli::SettingScope::kServer,
                       cli::SettingScope::kAttention, cli::SettingScope::kSampling}),
        output(app, /*log=*/true, /*json=*/false) {
    settings.add_greedy();
  }
  ServeOptions server;
  cli::SettingOptions settings;
  cli::OutputOptions output;
};

// The given template or the checkpoint's; absent if there is none.
std::optional<ChatTemplateHandle> chat_template_of(const std::optional<std::string>& path,
                                                   const std::string& model,
                                                   const TokenizerHandle& tokenizer) {
  if (path) return cli::take(ChatTemplateHandle::open_file(*path, tokenizer));
  if (!tokenizer.available()) return std::nullopt;
  Result<ChatTemplateHandle> own = ChatTemplateHandle::open(model, tokenizer);
  if (own.ok()) return std::move(own.value());
  if (own.status().code() != StatusCode::kInvalidArgument) cli::throw_status(own.status());
  return std::nullopt;
}

const char* attention_name(AttentionMode mode) {
  switch (mode) {
    case AttentionMode::kFull:
      return "full";
    case AttentionMode::kMoba:
      return "moba";
    case AttentionMode::kAuto:
      break;
  }
  return "auto";
}

std::string name_of_model(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path full = std::filesystem::weakly_canonical(path, ignored);
  return full.has_filename() ? full.filename().string() : full.parent_path().filename().string();
}

std::unique_ptr<server::Server> start(const server::ServerOptions& options) {
  try {
    return std::make_unique<server::Server>(options);
  } catch (const std::runtime_error& error) {
    throw cli::CommandError(error.what());
  }
}

// While signals only ask.
void wait_and_drain(server::Server& server, double drain_timeout) {
  while (cli::interrupt_signal() == 0) std::this_thread::sleep_for(kPoll);
  spdlog::info(
      "serve: shutting down; running requests have {:g} s to end, a second signal ends "
      "at once",
      drain_timeout);
  server.drain();
  if (!server.wait_drained(std::chrono::duration<double>(drain_timeout))) {
    spdlog::warn("serve: the time is up, what still runs is cut off");
  }
  server.stop();
}

int run(const Options& options) {
  cli::set_up_log(options.output.verbosity());
  const std::vector<cli::SettingValue> values = options.settings.collect();
  cli::Settings settings;
  cli::apply_settings(values, /*sampling=*/false, settings);
  cli::require_model(settings);
  server::ServerOptions server_options = options.server.read();
  if (server_options.model_names.empty()) {
    server_options.model_names = {name_of_model(settings.engine.model)};
  }
  cli::read_launch([](const char* name) { return std::getenv(name); }, settings.engine.parallel);
  // Another process of the group serves; this one only computes.
  if (settings.engine.parallel.process_rank > 0) cli::open_engine(settings);

  // It listens before the model is there, so that whoever asks for its health gets an answer.
  const std::unique_ptr<server::Server> server = start(server_options);
  const std::unique_ptr<Engine> engine = cli::open_engine(settings);
  settings.sampling = engine->default_sampling();
  cli::apply_settings(values, /*sampling=*/true, settings);
  cli::log_settings(settings);
  server::ServedModel model;
  model.engine = engine.get();
  model.chat_template =
      chat_template_of(options.server.chat_template(), settings.engine.model, engine->tokenizer());
  model.sampling = settings.sampling;
  model.attention = attention_name(settings.engine.attention.mode);
  const bool chat = model.chat_template.has_value();
  // Before the log says that it is ready, and it may be told to end.
  const cli::InterruptScope interrupts;
  server->serve(std::move(model));
  spdlog::info("serve: {} at http://{}:{}, {} tokens at most{}", server_options.model_names.front(),
               server_options.host, server->port(), engine->info().max_model_len,
               chat ? "" : "; no chat template, completions only");
  wait_and_drain(*server, options.server.drain_timeout());
  cli::log_memory(engine->info());
  return 0;
}

}  // namespace
}  // namespace moba::serve

namespace moba::cli {

Command add_serve(CLI::App& program) {
  CLI::App* app = program.add_subcommand("serve", "Serve a checkpoint over HTTP");
  app->group("Commands");
  const auto options = std::make_shared<serve::Options>(*app);
  app->footer(
      "The API is OpenAI's: /v1/chat/completions, /v1/completions, /v1/models; a chat page is at "
      "/.\n"
      "Example:\n"
      "  moba serve -m configs/models/moba-books-19m --port 8000\n"
      "  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 20}'\n"
      "SIGTERM and Ctrl-C let running requests end, then the exit code is 0.");
  return {app, [options] { return serve::run(*options); }};
}

}  // namespace moba::cli
