// What the server serves. Borrows the engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moba/chat_template.h"
#include "moba/engine.h"

namespace moba::server {

struct ServedModel {
  Engine* engine = nullptr;
  std::optional<ChatTemplateHandle> chat_template;  // absent: no chat completions
  SamplingParams sampling;                          // where a body says nothing
  std::string attention;                            // "auto", "full" or "moba": the engine's
};

}  // namespace moba::server
