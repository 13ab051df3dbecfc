// The part of the parser that reads expressions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template/ast.h"
#include "tokenizer/chat_template/lexer.h"

namespace moba::jinja {

// A position in the tokens, and expressions from there on. Borrows the tokens, which end with kEnd.
class ExpressionParser {
 public:
  explicit ExpressionParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  const Token& peek(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is_op(std::string_view op, std::size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == op;
  }
  bool is_name(std::string_view name) const {
    return peek().kind == TokenKind::kName && peek().text == name;
  }
  bool take_op(std::string_view op);
  bool take_name(std::string_view name);
  void expect_op(std::string_view op);
  std::string expect_name();
  [[noreturn]] void unexpected() const;

  // With commas: a tuple.
  ExprPtr parse_tuple();
  // `with_condition`: "a if b else c" is one expression.
  ExprPtr parse(bool with_condition = true);
  // The operand of a filter block: filters after nothing.
  ExprPtr parse_filters(ExprPtr operand);

 private:
  class Depth;

  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_power(ExprPtr base);
  ExprPtr parse_primary();
  ExprPtr parse_postfix(ExprPtr operand);
  ExprPtr parse_filter_or_test(ExprPtr operand);
  ExprPtr parse_subscript(ExprPtr operand);
  ExprPtr parse_list(std::string_view close);
  ExprPtr parse_dict();
  void parse_arguments(Expr& call);
  ExprPtr make(ExprKind kind, std::string name = "") const;
  ExprPtr binary(std::string op, ExprPtr left, ExprPtr right) const;

  const std::vector<Token>& tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace moba::jinja
