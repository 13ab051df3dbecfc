// From a conversation to a prompt.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moba/export.h"
#include "moba/status.h"
#include "moba/tokenizer.h"

namespace moba {

class ChatTemplate;

struct ChatTemplateOptions {
  // A JSON object: more variables for the template, such as enable_thinking.
  std::string variables = "{}";
  // The prompt ends where the model's answer begins.
  bool add_generation_prompt = true;
  // The prompt ends where the last message ends, so that the model goes on with it.
  bool continue_final_message = false;
};

// A handle to a template in the Jinja language, as Hugging Face's transformers runs it; copies
// share it. Every method is safe to call from several threads at once. What a template may compute
// is bounded.
class MOBA_API ChatTemplateHandle {
 public:
  // The template of a checkpoint directory (chat_template.jinja, or chat_template in
  // tokenizer_config.json). kInvalidArgument if it has none, kInvalidCheckpoint if it cannot be
  // read.
  static Result<ChatTemplateHandle> open(const std::string& dir, const TokenizerHandle& tokenizer);
  // A file with nothing but a template. kInvalidArgument if it cannot be read.
  static Result<ChatTemplateHandle> open_file(const std::string& path,
                                              const TokenizerHandle& tokenizer);

  // The prompt of a JSON array of messages ({"role", "content", ...}). Special tokens are those of
  // the template: text of the messages never becomes one. kInvalidArgument for what the template
  // objects to.
  Result<std::vector<std::int32_t>> encode(std::string_view messages,
                                           const ChatTemplateOptions& options = {}) const;
  // The same as text, for people.
  Result<std::string> render(std::string_view messages,
                             const ChatTemplateOptions& options = {}) const;

 private:
  ChatTemplateHandle(std::shared_ptr<const ChatTemplate> chat_template,
                     std::shared_ptr<const Tokenizer> tokenizer);
  std::shared_ptr<const ChatTemplate> template_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace moba
