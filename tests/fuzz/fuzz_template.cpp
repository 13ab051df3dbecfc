// Any text as a chat template, and as a conversation's text: it renders, or is refused with one
// std::runtime_error, in bounded time and memory.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "tokenizer/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string source(reinterpret_cast<const char*>(data), size);
  const char* const messages =
      R"([{"role": "system", "content": "<s>a"}, {"role": "user", "content": "Hi {{ x }}"},
          {"role": "assistant", "content": "b\n", "tool_calls": [{"function": {"name": "f"}}]}])";
  try {
    const moba::ChatTemplate chat_template(source, "fuzz", "<s>", "</s>");
    moba::ChatOptions options;
    options.variables = R"({"tools": null, "enable_thinking": false, "n": 3})";
    chat_template.render(messages, options);
    options.add_generation_prompt = false;
    options.continue_final_message = true;
    chat_template.render(messages, options);
  } catch (const std::runtime_error&) {
  }
  return 0;
}
