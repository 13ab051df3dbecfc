// Chat templates: from a conversation to the prompt that the checkpoint was trained on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace moba {

// A stretch of a prompt: text of the template, whose special tokens are meant, or of the
// conversation, whose special tokens are text like any other.
struct PromptSegment {
  std::string text;
  bool from_template = false;
};

struct ChatOptions {
  // A JSON object: more variables for the template. The keys above it win.
  std::string variables = "{}";
  bool add_generation_prompt = true;
  // The prompt ends where the last message's content ends, so that the model goes on with it.
  bool continue_final_message = false;
};

// A template in the Jinja language as Hugging Face's transformers runs it (trim_blocks,
// lstrip_blocks, tojson without escapes for HTML, raise_exception, strftime_now). Time and memory
// of a run are bounded, whatever the template does. Immutable; safe from several threads at once.
class ChatTemplate {
 public:
  // `name` is for messages. bos and eos are the variables bos_token and eos_token; may be empty.
  // Throws std::runtime_error with one line for a template that cannot be read.
  ChatTemplate(std::string_view source, std::string name, std::string bos, std::string eos);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // `messages` is a JSON array of objects. Throws std::runtime_error with one line: the template's
  // own objection (raise_exception), or what it cannot compute.
  std::vector<PromptSegment> render(std::string_view messages, const ChatOptions& options) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// With the tokenizer's own bos_token and eos_token.
std::shared_ptr<const ChatTemplate> make_chat_template(std::string_view source,
                                                       const std::string& name,
                                                       const Tokenizer& tokenizer);

// The template of a checkpoint directory: chat_template.jinja, or chat_template in
// tokenizer_config.json (of several named ones "default"); null if there is none. Throws
// std::runtime_error with one line that names the file.
std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& dir,
                                                       const Tokenizer& tokenizer);

// Ids of the segments one after another, without what the tokenizer adds by itself. They are
// tokenised as one text, but a special token is found only where all of it is the template's: no
// conversation can spell one, nor complete one.
std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer,
                                   const std::vector<PromptSegment>& segments);

}  // namespace moba
