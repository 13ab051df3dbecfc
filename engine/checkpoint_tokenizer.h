// Tokenizer and chat template of a checkpoint, whichever files have them.
#pragma once

#include <filesystem>
#include <memory>

#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moba {

// `path`: a checkpoint directory or a GGUF file. All throw std::runtime_error with one line naming
// the file and the key.

bool checkpoint_has_tokenizer(const std::filesystem::path& path);

std::shared_ptr<const Tokenizer> load_checkpoint_tokenizer(const std::filesystem::path& path);

// Null if the checkpoint has none.
std::shared_ptr<const ChatTemplate> load_checkpoint_chat_template(const std::filesystem::path& path,
                                                                  const Tokenizer& tokenizer);

}  // namespace moba
