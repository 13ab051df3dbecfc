// A conversation and the commands that steer it, without a terminal or an engine.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "moba/config.h"
#include "tools/moba/output.h"

namespace moba::cli {

// The messages so far, as chat templates take them.
class Conversation {
 public:
  // Empty: no system message.
  explicit Conversation(std::string system) : system_(std::move(system)) { reset(); }

  // Forgets all but the system message.
  void reset();
  void set_system(std::string system);
  void add_user(const std::string& text) { add("user", text); }
  void add_assistant(const std::string& text) { add("assistant", text); }
  // Takes back the last message: of a question that was not answered.
  void drop_last();
  // Takes back the oldest question and what answered it; false if there is none before the last.
  bool drop_oldest();

  // A JSON array.
  std::string messages() const;
  std::size_t size() const { return messages_.size(); }

 private:
  void add(const char* role, const std::string& text);
  std::string system_;
  OrderedJson messages_;
};

// What a line asks for.
struct ChatCommand {
  enum class Kind {
    kSay,        // the line is what the user says
    kHelp,       // /help
    kReset,      // /reset
    kSystem,     // /system TEXT
    kAttention,  // /attention full|moba|auto
    kQuit,       // /quit
    kNothing,    // an empty line
    kUnknown,    // another /word, or a command with a wrong argument: `text` says what is wrong
  };
  Kind kind = Kind::kSay;
  std::string text;
  AttentionMode attention = AttentionMode::kAuto;
};

// A line that begins with a slash is a command; with two, it is said with one.
ChatCommand parse_chat_line(std::string_view line);

// For people: the commands and what they do.
std::string_view chat_help();

}  // namespace moba::cli
