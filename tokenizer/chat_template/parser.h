// From tokens to a tree.
#pragma once

#include <string_view>

#include "tokenizer/chat_template/ast.h"

namespace moba::jinja {

// Expressions may be nested 40 deep, blocks 50. Throws TemplateError with the line, also for
// parts of the language that chat templates have no use for (inheritance, imports).
Block parse_template(std::string_view source);

}  // namespace moba::jinja
