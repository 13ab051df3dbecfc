// Runs a template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tokenizer/chat_template/ast.h"

namespace moba::jinja {

// Bounds of one run: what is computed, and what text is made, kept or not.
inline constexpr std::int64_t kMaxSteps = 10'000'000;
inline constexpr std::int64_t kMaxBytes = std::int64_t{512} << 20;

// What the template prints, with the variables and the functions range, namespace, dict,
// raise_exception and strftime_now. Time and memory are bounded whatever the template does. Throws
// TemplateError with the line.
Text run_template(const Block& block, const std::vector<std::pair<std::string, Value>>& variables);

}  // namespace moba::jinja
