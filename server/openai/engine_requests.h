// From a body that was read to what the engine is asked.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "moba/chat_template.h"
#include "moba/request.h"
#include "moba/tokenizer.h"
#include "server/openai/api_request.h"

namespace moba::openai {

// What making prompts needs. Borrowed.
struct PromptContext {
  const TokenizerHandle& tokenizer;
  const ChatTemplateHandle* chat_template;  // null: chat completions are refused
  // The text of a prompt_file. Throws ApiError. Not needed where ParseOptions allow none.
  std::function<std::string(const std::string& path)> read_file;
};

// How many requests to the engine a body makes: one for each prompt.
std::size_t num_engine_requests(const ApiRequest& request);

// The one of prompt `index`. Reads the prompt_file each time, so that a body with many prompts need
// not have its text as many times in memory. Throws ApiError.
Request engine_request(const ApiRequest& request, std::size_t index, const PromptContext& context);

}  // namespace moba::openai
