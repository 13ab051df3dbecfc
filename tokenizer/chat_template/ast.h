// A template as a tree.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/chat_template/value.h"

namespace moba::jinja {

struct Expr;
struct Node;
using ExprPtr = std::unique_ptr<Expr>;
using Block = std::vector<std::unique_ptr<Node>>;

enum class ExprKind {
  kLiteral,    // value
  kName,       // name
  kList,       // children (a tuple is one too)
  kDict,       // children: key, value, key, value ...
  kUnary,      // name: "not", "-", "+"; children[0]
  kBinary,     // name: the operator; children[0], [1]. "and" and "or" stop early
  kCondition,  // children: value, condition, otherwise (may be null)
  kAttribute,  // children[0].name
  kItem,       // children[0][children[1]]
  kSlice,      // children: of what, begin, end, step (any of the last three may be null)
  kCall,       // children[0](arguments)
  kMethod,     // children[0].name(arguments)
  kFilter,     // children[0] | name(arguments)
  kTest,       // children[0] is name(arguments); negated: is not
};

struct Expr {
  ExprKind kind;
  int line = 0;
  std::string name;
  Value value;
  std::vector<ExprPtr> children;
  std::vector<ExprPtr> arguments;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  bool negated = false;
};

enum class NodeKind {
  kText,      // text
  kPrint,     // expr
  kIf,        // expr, body, otherwise
  kFor,       // targets in expr if condition; body, otherwise
  kSet,       // targets = expr, or name.attribute = expr
  kSetBlock,  // targets[0] = what body prints
  kMacro,     // name(parameters): body
  kFilter,    // what body prints, through expr (whose innermost operand is null)
  kBreak,
  kContinue,
  kGroup,  // body
};

struct Node {
  NodeKind kind;
  int line = 0;
  std::string text;  // of kText; name of kMacro; attribute of kSet, if any
  std::vector<std::string> targets;
  ExprPtr expr;
  ExprPtr condition;
  Block body;
  Block otherwise;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // with their defaults, or null
};

}  // namespace moba::jinja
