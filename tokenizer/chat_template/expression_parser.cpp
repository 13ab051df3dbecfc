#include "tokenizer/chat_template/expression_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

namespace moba::jinja {
namespace {

constexpr int kMaxNesting = 40;
// A chain as a.b.c or 1 + 1 + 1 is a tree as deep as it is long.
constexpr int kMaxChain = 100;

}  // namespace

class ExpressionParser::Depth {
 public:
  explicit Depth(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxNesting) fail_at(parser_.peek().line, "nested too deep");
  }
  ~Depth() { --parser_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  ExpressionParser& parser_;
};

namespace {

// Counts the links of a chain.
class Chain {
 public:
  explicit Chain(const ExpressionParser& parser) : parser_(parser) {}
  void step() {
    if (++length_ > kMaxChain) fail_at(parser_.peek().line, "an expression is too long");
  }

 private:
  const ExpressionParser& parser_;
  int length_ = 0;
};

}  // namespace

bool ExpressionParser::take_op(std::string_view op) {
  if (!is_op(op)) return false;
  take();
  return true;
}

bool ExpressionParser::take_name(std::string_view name) {
  if (!is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!take_op(op)) {
    fail_at(peek().line, "expected '" + std::string(op) + "' before '" + peek().text + "'");
  }
}

std::string ExpressionParser::expect_name() {
  if (peek().kind != TokenKind::kName) fail_at(peek().line, "expected a name");
  return take().text;
}

void ExpressionParser::unexpected() const {
  const Token& token = peek();
  const bool tag = token.kind == TokenKind::kTagEnd || token.kind == TokenKind::kPrintEnd;
  fail_at(token.line, token.kind == TokenKind::kEnd ? "unexpected end of the template"
                      : tag                         ? "unexpected end of a tag"
                                                    : "unexpected '" + token.text + "'");
}

ExprPtr ExpressionParser::make(ExprKind kind, std::string name) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = peek().line;
  expr->name = std::move(name);
  return expr;
}

ExprPtr ExpressionParser::binary(std::string op, ExprPtr left, ExprPtr right) const {
  ExprPtr expr = make(ExprKind::kBinary, std::move(op));
  expr->children.push_back(std::move(left));
  expr->children.push_back(std::move(right));
  return expr;
}

ExprPtr ExpressionParser::parse_tuple() {
  ExprPtr first = parse();
  if (!is_op(",")) return first;
  ExprPtr tuple = make(ExprKind::kList);
  tuple->children.push_back(std::move(first));
  while (take_op(",")) {
    if (peek().kind == TokenKind::kTagEnd || peek().kind == TokenKind::kPrintEnd || is_op("=")) {
      break;
    }
    tuple->children.push_back(parse());
  }
  return tuple;
}

ExprPtr ExpressionParser::parse(bool with_condition) {
  const Depth depth(*this);
  ExprPtr value = parse_or();
  Chain chain(*this);
  while (with_condition && take_name("if")) {
    chain.step();
    ExprPtr expr = make(ExprKind::kCondition);
    expr->children.push_back(std::move(value));
    expr->children.push_back(parse_or());
    expr->children.push_back(take_name("else") ? parse() : nullptr);
    value = std::move(expr);
  }
  return value;
}

ExprPtr ExpressionParser::parse_or() {
  ExprPtr left = parse_and();
  Chain chain(*this);
  while (take_name("or")) {
    chain.step();
    left = binary("or", std::move(left), parse_and());
  }
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  ExprPtr left = parse_not();
  Chain chain(*this);
  while (take_name("and")) {
    chain.step();
    left = binary("and", std::move(left), parse_not());
  }
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Depth depth(*this);
  take();
  ExprPtr expr = make(ExprKind::kUnary, "not");
  expr->children.push_back(parse_not());
  return expr;
}

// "a < b < c" means "a < b and b < c"; chat templates have no use for it.
ExprPtr ExpressionParser::parse_compare() {
  constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  const auto at_operator = [&] {
    const bool op =
        peek().kind == TokenKind::kOperator &&
        std::find(kOperators.begin(), kOperators.end(), peek().text) != kOperators.end();
    const bool not_in = is_name("not") && peek(1).kind == TokenKind::kName && peek(1).text == "in";
    return op || not_in || is_name("in");
  };
  ExprPtr left = parse_sum();
  if (!at_operator()) return left;
  const bool negated = take_name("not");
  std::string op = take().text;
  left = binary(std::move(op), std::move(left), parse_sum());
  if (negated) {
    ExprPtr expr = make(ExprKind::kUnary, "not");
    expr->children.push_back(std::move(left));
    left = std::move(expr);
  }
  if (at_operator()) fail_at(peek().line, "chained comparisons are not supported");
  return left;
}

ExprPtr ExpressionParser::parse_sum() {
  ExprPtr left = parse_concat();
  Chain chain(*this);
  while (is_op("+") || is_op("-")) {
    chain.step();
    std::string op = take().text;
    left = binary(std::move(op), std::move(left), parse_concat());
  }
  return left;
}

ExprPtr ExpressionParser::parse_concat() {
  ExprPtr left = parse_product();
  Chain chain(*this);
  while (take_op("~")) {
    chain.step();
    left = binary("~", std::move(left), parse_product());
  }
  return left;
}

ExprPtr ExpressionParser::parse_product() {
  ExprPtr left = parse_unary(true);
  Chain chain(*this);
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    chain.step();
    std::string op = take().text;
    left = binary(std::move(op), std::move(left), parse_unary(true));
  }
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  const Depth depth(*this);
  ExprPtr operand;
  if (is_op("-") || is_op("+")) {
    operand = make(ExprKind::kUnary, take().text);
    operand->children.push_back(parse_unary(false));
  } else {
    operand = parse_primary();
  }
  operand = parse_power(parse_postfix(std::move(operand)));
  return with_filters ? parse_filter_or_test(std::move(operand)) : std::move(operand);
}

ExprPtr ExpressionParser::parse_power(ExprPtr base) {
  if (!take_op("**")) return base;
  return binary("**", std::move(base), parse_unary(true));
}

ExprPtr ExpressionParser::parse_list(std::string_view close) {
  ExprPtr list = make(ExprKind::kList);
  while (!take_op(close)) {
    list->children.push_back(parse());
    if (!is_op(close)) expect_op(",");
  }
  return list;
}

ExprPtr ExpressionParser::parse_dict() {
  ExprPtr dict = make(ExprKind::kDict);
  while (!take_op("}")) {
    dict->children.push_back(parse());
    expect_op(":");
    dict->children.push_back(parse());
    if (!is_op("}")) expect_op(",");
  }
  return dict;
}

ExprPtr ExpressionParser::parse_primary() {
  const Token& token = peek();
  const auto literal = [&](Value value) {
    ExprPtr expr = make(ExprKind::kLiteral);
    expr->value = std::move(value);
    return expr;
  };
  switch (token.kind) {
    case TokenKind::kString: {
      std::string text = take().text;
      while (peek().kind == TokenKind::kString) text += take().text;
      return literal(Text::from_template(text));
    }
    case TokenKind::kInteger: {
      std::int64_t number = 0;
      const auto [end, error] =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), number);
      if (error != std::errc()) fail_at(token.line, "the number " + token.text + " is too large");
      take();
      return literal(number);
    }
    case TokenKind::kFloat:
      return literal(std::strtod(take().text.c_str(), nullptr));
    case TokenKind::kName: {
      std::string name = take().text;
      if (name == "true" || name == "True") return literal(true);
      if (name == "false" || name == "False") return literal(false);
      if (name == "none" || name == "None") return literal(None{});
      return make(ExprKind::kName, std::move(name));
    }
    case TokenKind::kOperator:
      break;
    default:
      unexpected();
  }
  if (take_op("[")) return parse_list("]");
  if (take_op("{")) return parse_dict();
  if (!take_op("(")) unexpected();
  if (take_op(")")) return make(ExprKind::kList);
  ExprPtr first = parse();
  if (take_op(")")) return first;
  ExprPtr tuple = make(ExprKind::kList);
  tuple->children.push_back(std::move(first));
  while (!take_op(")")) {
    expect_op(",");
    if (!is_op(")")) tuple->children.push_back(parse());
  }
  return tuple;
}

void ExpressionParser::parse_arguments(Expr& call) {
  constexpr std::size_t kMaxArguments = 64;
  while (!take_op(")")) {
    if (call.arguments.size() + call.keywords.size() == kMaxArguments) {
      fail_at(peek().line, "too many arguments");
    }
    if (peek().kind == TokenKind::kName && is_op("=", 1)) {
      std::string name = take().text;
      take();
      call.keywords.emplace_back(std::move(name), parse());
    } else {
      call.arguments.push_back(parse());
    }
    if (!is_op(")")) expect_op(",");
  }
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr operand) {
  std::array<ExprPtr, 3> parts;
  std::size_t count = 0;
  bool slice = false;
  for (;;) {
    if (!is_op(":") && !is_op("]")) parts[count] = parse();
    if (take_op("]")) break;
    expect_op(":");
    slice = true;
    if (++count == parts.size()) unexpected();
  }
  if (!slice && parts[0] == nullptr) unexpected();
  ExprPtr expr = make(slice ? ExprKind::kSlice : ExprKind::kItem);
  expr->children.push_back(std::move(operand));
  for (ExprPtr& part : parts) {
    if (slice || part != nullptr) expr->children.push_back(std::move(part));
  }
  return expr;
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr operand) {
  Chain chain(*this);
  for (;;) {
    chain.step();
    if (take_op(".")) {
      std::string name = peek().kind == TokenKind::kInteger ? take().text : expect_name();
      const bool method = take_op("(");
      ExprPtr expr = make(method ? ExprKind::kMethod : ExprKind::kAttribute, std::move(name));
      expr->children.push_back(std::move(operand));
      if (method) parse_arguments(*expr);
      operand = std::move(expr);
    } else if (take_op("[")) {
      operand = parse_subscript(std::move(operand));
    } else if (take_op("(")) {
      ExprPtr expr = make(ExprKind::kCall);
      expr->children.push_back(std::move(operand));
      parse_arguments(*expr);
      operand = std::move(expr);
    } else {
      return operand;
    }
  }
}

ExprPtr ExpressionParser::parse_filters(ExprPtr operand) {
  do {
    ExprPtr expr = make(ExprKind::kFilter, expect_name());
    expr->children.push_back(std::move(operand));
    if (take_op("(")) parse_arguments(*expr);
    operand = std::move(expr);
  } while (take_op("|"));
  return operand;
}

ExprPtr ExpressionParser::parse_filter_or_test(ExprPtr operand) {
  Chain chain(*this);
  for (;;) {
    chain.step();
    if (take_op("|")) {
      ExprPtr expr = make(ExprKind::kFilter, expect_name());
      expr->children.push_back(std::move(operand));
      if (take_op("(")) parse_arguments(*expr);
      operand = std::move(expr);
    } else if (take_name("is")) {
      const bool negated = take_name("not");
      ExprPtr expr = make(ExprKind::kTest, expect_name());
      expr->negated = negated;
      expr->children.push_back(std::move(operand));
      const Token& next = peek();
      constexpr std::array<std::string_view, 6> kWords = {"else", "or", "and", "is", "in", "not"};
      const bool word = next.kind == TokenKind::kName &&
                        std::find(kWords.begin(), kWords.end(), next.text) == kWords.end() &&
                        next.text != "if";
      if (take_op("(")) {
        parse_arguments(*expr);
      } else if (word || next.kind == TokenKind::kString || next.kind == TokenKind::kInteger ||
                 next.kind == TokenKind::kFloat || is_op("[") || is_op("{")) {
        expr->arguments.push_back(parse_postfix(parse_primary()));
      }
      operand = std::move(expr);
    } else if (is_op("(") || is_op(".") || is_op("[")) {
      operand = parse_postfix(std::move(operand));
    } else {
      return operand;
    }
  }
}

}  // namespace moba::jinja
