// moba chat: a conversation at the terminal.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moba/chat_template.h"
#include "moba/engine.h"
#include "moba/inspect.h"
#include "tools/moba/chat_session.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/launch.h"
#include "tools/moba/line_editor.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

// What MoBA is asked for where the checkpoint has no settings of its own.
constexpr int kDefaultMobaBlock = 64;
constexpr int kDefaultMobaTopk = 8;
constexpr const char* kPrompt = "> ";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kPlain = "\x1b[0m";

struct Options {
  explicit Options(CLI::App& app)
      : settings(app, {SettingScope::kModel, SettingScope::kEngine, SettingScope::kAttention,
                       SettingScope::kSampling}),
        output(app, /*log=*/true) {
    constexpr const char* kGroup = "Conversation";
    system = add_text_option(app, "--system", "TEXT",
                             "System message (default: none, or what the template puts)", kGroup);
    chat_template = add_text_option(app, "--chat-template", "FILE",
                                    "Template of the conversation, in the Jinja language (default: "
                                    "the checkpoint's)",
                                    kGroup);
    settings.add_greedy();
  }
  CLI::Option* system = nullptr;
  CLI::Option* chat_template = nullptr;
  SettingOptions settings;
  OutputOptions output;
};

ChatTemplateHandle open_template(const Options& options, const Settings& settings,
                                 const TokenizerHandle& tokenizer) {
  if (const auto path = value_of(options.chat_template)) {
    return take(ChatTemplateHandle::open_file(*path, tokenizer));
  }
  return take(ChatTemplateHandle::open(settings.engine.model, tokenizer));
}

class Chat {
 public:
  Chat(Engine& engine, ChatTemplateHandle chat_template, const Settings& settings, bool own_moba,
       std::string system)
      : engine_(engine),
        template_(std::move(chat_template)),
        settings_(settings),
        own_moba_(own_moba),
        conversation_(std::move(system)),
        for_people_(::isatty(STDOUT_FILENO) == 1) {}

  void run(LineEditor& editor) {
    bool interrupted = false;  // by the last key
    for (;;) {
      std::string line;
      clear_interrupt();
      const InterruptScope interrupts;
      const LineEditor::Result result = editor.read(for_people_ ? kPrompt : "", line);
      if (result == LineEditor::Result::kEnd) break;
      if (result == LineEditor::Result::kInterrupted) {
        if (interrupt_signal() != 0 && interrupt_signal() != kInterrupt) throw Terminated{};
        note(interrupted ? "" : "\n(Ctrl-C again, Ctrl-D or /quit to leave)");
        if (std::exchange(interrupted, true)) break;
        continue;
      }
      interrupted = false;
      if (!obey(parse_chat_line(line))) break;
    }
    if (for_people_) write_stdout("\n");
  }

  struct Terminated {};

 private:
  // A line that is not part of the conversation.
  void note(const std::string& text) const {
    if (for_people_ && !text.empty()) write_stdout(kDim + text + kPlain + "\n");
  }

  // False: the conversation is over.
  bool obey(const ChatCommand& command) {
    switch (command.kind) {
      case ChatCommand::Kind::kSay:
        answer(command.text);
        return true;
      case ChatCommand::Kind::kHelp:
        write_stdout(chat_help());
        return true;
      case ChatCommand::Kind::kReset:
        conversation_.reset();
        note("(the conversation is forgotten)");
        return true;
      case ChatCommand::Kind::kSystem:
        conversation_.set_system(command.text);
        note("(a new conversation)");
        return true;
      case ChatCommand::Kind::kAttention:
        set_attention(command.attention);
        return true;
      case ChatCommand::Kind::kUnknown:
        spdlog::error("{}", command.text);
        return true;
      case ChatCommand::Kind::kNothing:
        return true;
      case ChatCommand::Kind::kQuit:
        return false;
    }
    return true;
  }

  void set_attention(AttentionMode mode) {
    attention_ = {};
    attention_.mode = mode;
    if (mode == AttentionMode::kMoba && !own_moba_ && settings_.engine.attention.moba_topk == 0) {
      attention_.moba_topk = kDefaultMobaTopk;
    }
    note(mode == AttentionMode::kFull   ? "(full attention)"
         : mode == AttentionMode::kMoba ? "(MoBA)"
                                        : "(attention as the checkpoint says)");
  }

  // The prompt, with the oldest exchanges left out if it would be too long for an answer.
  std::vector<std::int32_t> make_prompt() {
    for (;;) {
      std::vector<std::int32_t> ids = take(template_.encode(conversation_.messages()));
      const std::int64_t longest = engine_.info().max_model_len;
      const std::int64_t wanted = std::min<std::int64_t>(longest / 4, 512);
      if (static_cast<std::int64_t>(ids.size()) + wanted <= longest) return ids;
      if (!conversation_.drop_oldest()) return ids;
      note("(the oldest exchange is left out: the conversation is too long)");
    }
  }

  void answer(const std::string& text) {
    conversation_.add_user(text);
    Request request;
    request.sampling = settings_.sampling;
    request.attention = attention_;
    try {
      request.prompt_ids = make_prompt();
      stream(request);
    } catch (const CommandError& error) {  // refused: the conversation stays as it was
      conversation_.drop_last();
      spdlog::error("{}", error.what());
    }
  }

  void stream(const Request& request) {
    std::exception_ptr failure;  // of the output; the engine's thread must not see it
    std::size_t streamed = 0;
    Callbacks callbacks;
    callbacks.on_prompt = [](std::int64_t, std::int64_t) { return interrupt_signal() == 0; };
    callbacks.on_token = [&](const TokenEvent& event) {
      try {
        write_stdout(event.text);
        streamed += event.text.size();
      } catch (const OutputError&) {
        failure = std::current_exception();
        return false;
      }
      return interrupt_signal() == 0;
    };
    const RequestOutput output = take(engine_.generate(request, callbacks));
    if (failure) std::rethrow_exception(failure);
    if (output.text.size() > streamed) write_stdout(output.text.substr(streamed));
    write_stdout("\n");
    if (interrupt_signal() != 0 && interrupt_signal() != kInterrupt) throw Terminated{};
    conversation_.add_assistant(output.text);
    const RequestMetrics& m = output.metrics;
    std::string line = fmt::format("({} tok", with_commas(m.num_output_tokens));
    if (m.num_output_tokens > 1) {
      line += fmt::format(", {:.1f} tok/s",
                          ratio(static_cast<double>(m.num_output_tokens - 1), m.decode_seconds));
    }
    line += fmt::format("; prompt {} tok, {} of them known", with_commas(m.num_prompt_tokens),
                        with_commas(m.num_cached_tokens));
    if (output.finish_reason == FinishReason::kCancelled) line += "; stopped";
    if (output.finish_reason == FinishReason::kLength) line += "; cut at the longest length";
    note(line + ")");
  }

  Engine& engine_;
  ChatTemplateHandle template_;
  const Settings& settings_;
  bool own_moba_;
  Conversation conversation_;
  bool for_people_;
  AttentionOverride attention_;
};

int run(const Options& options) {
  set_up_log(options.output.verbosity());
  const std::vector<SettingValue> values = options.settings.collect();
  Settings settings;
  apply_settings(values, /*sampling=*/false, settings);
  require_model(settings);
  // The cache's blocks are fixed when the engine starts: ready for /attention moba.
  const CheckpointInfo checkpoint = take(inspect_checkpoint(settings.engine.model));
  const bool own_moba = checkpoint.moba_block_size > 0;
  if (!own_moba && settings.engine.attention.moba_block_size == 0) {
    settings.engine.attention.moba_block_size = kDefaultMobaBlock;
  }
  const std::unique_ptr<Engine> engine = open_engine(settings);
  settings.sampling = engine->default_sampling();
  apply_settings(values, /*sampling=*/true, settings);
  Chat chat(*engine, open_template(options, settings, engine->tokenizer()), settings, own_moba,
            value_of(options.system).value_or(""));
  if (::isatty(STDIN_FILENO) == 1) spdlog::info("/help lists the commands, Ctrl-D leaves");
  try {
    chat.run(*make_line_editor());
  } catch (const Chat::Terminated&) {
    return 128 + interrupt_signal();
  }
  return 0;
}

}  // namespace

Command add_chat(CLI::App& program) {
  CLI::App* app = program.add_subcommand("chat", "Hold a conversation");
  app->group("Commands");
  const auto options = std::make_shared<Options>(*app);
  app->footer(
      "Lines are read from standard input, replies go to standard output as they come.\n"
      "Examples:\n"
      "  moba chat -m SmolLM2-135M-Instruct.Q4_1.gguf\n"
      "  moba chat -m DIR --system \"Answer in one sentence.\" --greedy");
  return {app, [options] { return run(*options); }};
}

}  // namespace moba::cli
