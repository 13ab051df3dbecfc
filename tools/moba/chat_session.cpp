#include "tools/moba/chat_session.h"

#include <spdlog/fmt/fmt.h>

#include <utility>

namespace moba::cli {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

}  // namespace

void Conversation::add(const char* role, const std::string& text) {
  messages_.push_back({{"role", role}, {"content", text}});
}

void Conversation::reset() {
  messages_ = OrderedJson::array();
  if (!system_.empty()) add("system", system_);
}

void Conversation::set_system(std::string system) {
  system_ = std::move(system);
  reset();
}

void Conversation::drop_last() {
  const std::size_t kept = system_.empty() ? 0 : 1;
  if (messages_.size() > kept) messages_.erase(messages_.size() - 1);
}

bool Conversation::drop_oldest() {
  const std::size_t first = system_.empty() ? 0 : 1;
  if (messages_.size() < first + 3) return false;
  messages_.erase(first);
  messages_.erase(first);
  return true;
}

std::string Conversation::messages() const {
  return messages_.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

ChatCommand parse_chat_line(std::string_view line) {
  using Kind = ChatCommand::Kind;
  ChatCommand out;
  const std::string_view text = trimmed(line);
  if (text.empty()) {
    out.kind = Kind::kNothing;
    return out;
  }
  if (text.front() != '/' || text.substr(0, 2) == "//") {
    out.text = text.front() == '/' ? text.substr(1) : line;
    return out;
  }
  const std::size_t space = text.find_first_of(" \t");
  const std::string_view name = text.substr(1, space == std::string_view::npos ? space : space - 1);
  const std::string_view rest =
      space == std::string_view::npos ? std::string_view() : trimmed(text.substr(space));
  const auto without_argument = [&](Kind kind) {
    out.kind = rest.empty() ? kind : Kind::kUnknown;
    if (!rest.empty()) out.text = fmt::format("/{} takes nothing after it", name);
  };
  if (name == "help" || name == "?") {
    without_argument(Kind::kHelp);
  } else if (name == "reset") {
    without_argument(Kind::kReset);
  } else if (name == "quit" || name == "exit") {
    without_argument(Kind::kQuit);
  } else if (name == "system") {
    out.kind = Kind::kSystem;
    out.text = rest;
  } else if (name == "attention") {
    out.kind = Kind::kAttention;
    if (rest == "full") {
      out.attention = AttentionMode::kFull;
    } else if (rest == "moba") {
      out.attention = AttentionMode::kMoba;
    } else if (rest != "auto") {
      out.kind = Kind::kUnknown;
      out.text = "/attention takes full, moba or auto";
    }
  } else {
    out.kind = Kind::kUnknown;
    out.text = fmt::format("there is no command /{}; /help lists them", name);
  }
  return out;
}

std::string_view chat_help() {
  return "/help                      this list\n"
         "/reset                     forget the conversation\n"
         "/system TEXT               another system message (none: no text); forgets the rest\n"
         "/attention full|moba|auto  attention from the next reply on\n"
         "/quit                      leave, as Ctrl-D\n"
         "Ctrl-C stops a reply. A line that begins with // is said with one slash.\n";
}

}  // namespace moba::cli
