#include <stdexcept>
#include <utility>

#include "engine/checkpoint_tokenizer.h"
#include "moba/chat_template.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/json_view.h"

namespace moba {
namespace {

constexpr std::uintmax_t kMaxTemplateBytes = std::uintmax_t{1} << 20;

ChatOptions to_options(const ChatTemplateOptions& options) {
  return {options.variables, options.add_generation_prompt, options.continue_final_message};
}

}  // namespace

ChatTemplateHandle::ChatTemplateHandle(std::shared_ptr<const ChatTemplate> chat_template,
                                       std::shared_ptr<const Tokenizer> tokenizer)
    : template_(std::move(chat_template)), tokenizer_(std::move(tokenizer)) {}

Result<ChatTemplateHandle> ChatTemplateHandle::open(const std::string& dir,
                                                    const TokenizerHandle& tokenizer) {
  try {
    auto found = load_checkpoint_chat_template(dir, *tokenizer.tokenizer_);
    if (found == nullptr) {
      return Status(StatusCode::kInvalidArgument, dir + " has no chat template");
    }
    return ChatTemplateHandle(std::move(found), tokenizer.tokenizer_);
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidCheckpoint, error.what());
  }
}

Result<ChatTemplateHandle> ChatTemplateHandle::open_file(const std::string& path,
                                                         const TokenizerHandle& tokenizer) {
  try {
    return ChatTemplateHandle(make_chat_template(read_tokenizer_file(path, kMaxTemplateBytes), path,
                                                 *tokenizer.tokenizer_),
                              tokenizer.tokenizer_);
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

Result<std::vector<std::int32_t>> ChatTemplateHandle::encode(
    std::string_view messages, const ChatTemplateOptions& options) const {
  try {
    return encode_prompt(*tokenizer_, template_->render(messages, to_options(options)));
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

Result<std::string> ChatTemplateHandle::render(std::string_view messages,
                                               const ChatTemplateOptions& options) const {
  try {
    std::string text;
    for (const PromptSegment& segment : template_->render(messages, to_options(options))) {
      text += segment.text;
    }
    return text;
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

}  // namespace moba
