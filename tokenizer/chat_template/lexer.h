// Cuts a template into text and tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template/value.h"

namespace moba::jinja {

enum class TokenKind {
  kText,        // between tags, with white space control applied
  kPrintBegin,  // {{
  kPrintEnd,
  kTagBegin,  // {%
  kTagEnd,
  kName,
  kString,  // decoded
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  std::string text;
  int line = 0;
};

// With trim_blocks and lstrip_blocks, as Hugging Face's transformers reads templates. Throws
// TemplateError with the line.
std::vector<Token> tokenize(std::string_view source);

[[noreturn]] void fail_at(int line, const std::string& message);

}  // namespace moba::jinja
