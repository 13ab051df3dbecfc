// moba chat: its lines and its memory, and the real program with the embedded model.
#include "tools/moba/chat_session.h"

#include <signal.h>

#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tools/process.h"

using moba::AttentionMode;
using moba::cli::ChatCommand;
using moba::cli::Conversation;
using moba::cli::parse_chat_line;
using moba::test::run_moba;
using moba::test::RunOptions;
using moba::test::RunResult;
using Kind = moba::cli::ChatCommand::Kind;

TEST_CASE("chat: what a line asks for") {
  CHECK(parse_chat_line("").kind == Kind::kNothing);
  CHECK(parse_chat_line(" \t").kind == Kind::kNothing);
  CHECK(parse_chat_line("Hello there").kind == Kind::kSay);
  CHECK(parse_chat_line("  two spaces").text == "  two spaces");
  CHECK(parse_chat_line("//etc/hosts").kind == Kind::kSay);
  CHECK(parse_chat_line("//etc/hosts").text == "/etc/hosts");
  CHECK(parse_chat_line("/help").kind == Kind::kHelp);
  CHECK(parse_chat_line("  /reset  ").kind == Kind::kReset);
  CHECK(parse_chat_line("/quit").kind == Kind::kQuit);
  CHECK(parse_chat_line("/exit").kind == Kind::kQuit);
  CHECK(parse_chat_line("/system  Be brief. ").text == "Be brief.");
  CHECK(parse_chat_line("/system").text.empty());
  CHECK(parse_chat_line("/attention full").attention == AttentionMode::kFull);
  CHECK(parse_chat_line("/attention\tmoba").attention == AttentionMode::kMoba);
  CHECK(parse_chat_line("/attention auto").kind == Kind::kAttention);
  CHECK(parse_chat_line("/attention").text == "/attention takes full, moba or auto");
  CHECK(parse_chat_line("/reset now").text == "/reset takes nothing after it");
  CHECK(parse_chat_line("/what").text == "there is no command /what; /help lists them");
  CHECK(parse_chat_line("/").kind == Kind::kUnknown);
}

TEST_CASE("chat: the conversation keeps its system message") {
  Conversation talk("Be kind.");
  talk.add_user("a");
  talk.add_assistant("b");
  talk.add_user("\"c\"\xff");
  CHECK(talk.messages() ==
        R"([{"role":"system","content":"Be kind."},{"role":"user","content":"a"},)"
        R"({"role":"assistant","content":"b"},{"role":"user","content":"\"c\")"
        "\xEF\xBF\xBD\"}]");
  CHECK(talk.drop_oldest());
  CHECK(talk.size() == 2);
  CHECK_FALSE(talk.drop_oldest());
  talk.drop_last();
  talk.drop_last();
  CHECK(talk.size() == 1);
  talk.set_system("");
  CHECK(talk.messages() == "[]");
  talk.drop_last();
  talk.add_user("d");
  talk.reset();
  CHECK(talk.size() == 0);
}

namespace {

std::vector<std::string> chat(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"chat", "-m",   moba::test::embedded_model(),
                                     "-c",   "2048", "--greedy"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

RunResult say(const std::string& lines, const std::string& max_tokens = "8", int signal = 0) {
  RunOptions options;
  options.input = lines;
  options.signal = signal;
  options.signal_output = 20;
  return run_moba(chat({"--chat-template", moba::test::repo_path("tests/data/chat/chatml.jinja"),
                        "-n", max_tokens}),
                  options);
}

}  // namespace

TEST_CASE("chat: a conversation over a pipe", "[program]") {
  const RunResult both = say("Hello\n/attention full\nAnd then?\n");
  INFO(both.err);
  CHECK(both.exit_code == 0);
  const RunResult first = say("Hello\n");
  CHECK(first.exit_code == 0);
  REQUIRE_FALSE(first.out.empty());
  CHECK(both.out.size() > first.out.size());
  CHECK(both.out.compare(0, first.out.size(), first.out) == 0);  // no prompts, no notes
  CHECK(say("Hello\n/reset\nHello").out == first.out + first.out);
  const RunResult commands = say("/nonsense\n/help\n/quit\nnot read\n");
  CHECK(commands.exit_code == 0);
  CHECK(commands.err.find("there is no command /nonsense") != std::string::npos);
  CHECK(commands.out == moba::cli::chat_help());
}

TEST_CASE("chat: Ctrl-C stops a reply and not the program", "[program]") {
  const RunResult result = say("Hello\n/help\n", "1500", SIGINT);
  INFO(result.err);
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("forget the conversation") != std::string::npos);
  CHECK(result.out.size() < 4000);
}

TEST_CASE("chat: a checkpoint without a template is refused in one line", "[program]") {
  const RunResult none = run_moba(chat({}));
  CHECK(none.exit_code == 1);
  REQUIRE(none.errors().size() == 1);
  CHECK(none.errors()[0].find("has no chat template") != std::string::npos);
}
