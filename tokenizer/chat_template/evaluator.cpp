#include "tokenizer/chat_template/evaluator.h"

#include <array>
#include <ctime>
#include <optional>

#include "tokenizer/chat_template/builtins.h"
#include "tokenizer/chat_template/lexer.h"

namespace moba::jinja {
namespace {

// Expressions within blocks within macros; each takes some hundred bytes of stack.
constexpr int kMaxEvaluationDepth = 400;
constexpr std::int64_t kMaxRange = 100'000;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  explicit Evaluator(const std::vector<std::pair<std::string, Value>>& variables)
      : budget_(kMaxSteps, kMaxBytes), scopes_(2) {
    using Kind = Callable::Kind;
    for (const auto& [name, kind] :
         {std::pair("range", Kind::kRange), std::pair("namespace", Kind::kNamespace),
          std::pair("dict", Kind::kDict), std::pair("raise_exception", Kind::kRaise),
          std::pair("strftime_now", Kind::kStrftime)}) {
      scopes_[0].set(name, Callable{kind});
    }
    for (const auto& [name, value] : variables) scopes_[0].set(name, value);
  }

  Text run(const Block& block) {
    Text out;
    run_block(block, out);
    return out;
  }

 private:
  // Variables of one scope; few, so they are searched.
  struct Scope {
    std::vector<std::pair<std::string, Value>> variables;

    const Value* find(const std::string& name) const {
      for (const auto& [key, value] : variables) {
        if (key == name) return &value;
      }
      return nullptr;
    }
    void set(const std::string& name, Value value) {
      for (auto& [key, old] : variables) {
        if (key != name) continue;
        old = std::move(value);
        return;
      }
      variables.emplace_back(name, std::move(value));
    }
  };

  class Deeper {
   public:
    explicit Deeper(Evaluator& evaluator) : evaluator_(evaluator) {
      evaluator_.budget_.step();
      if (++evaluator_.depth_ > kMaxEvaluationDepth) throw TemplateError("nested too deep");
    }
    ~Deeper() { --evaluator_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Evaluator& evaluator_;
  };

  Value find_variable(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const Value* value = scope->find(name)) return *value;
    }
    return Undefined{name};
  }
  void set_variable(const std::string& name, Value value) {
    budget_.step(scopes_.back().variables.size());
    scopes_.back().set(name, std::move(value));
  }

  Flow run_block(const Block& block, Text& out) {
    for (const auto& node : block) {
      const Flow flow = run_node(*node, out);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  void emit(const Text& text, Text& out) {
    budget_.make_bytes(text.size());
    out.append(text);
  }

  Flow run_node(const Node& node, Text& out) {
    const Deeper deeper(*this);
    try {
      return run_node_unlocated(node, out);
    } catch (const Located&) {
      throw;
    } catch (const TemplateError& error) {
      throw Located("line " + std::to_string(node.line) + ": " + error.what());
    }
  }

  // An error that has its line.
  class Located : public TemplateError {
   public:
    using TemplateError::TemplateError;
  };

  Flow run_node_unlocated(const Node& node, Text& out) {
    switch (node.kind) {
      case NodeKind::kText:
        emit(Text::from_template(node.text), out);
        break;
      case NodeKind::kPrint:
        emit(print(evaluate(*node.expr), budget_), out);
        break;
      case NodeKind::kIf:
        return run_block(evaluate(*node.expr).truthy() ? node.body : node.otherwise, out);
      case NodeKind::kFor:
        return run_for(node, out);
      case NodeKind::kSet:
        assign(node);
        break;
      case NodeKind::kSetBlock:
      case NodeKind::kFilter: {
        Text text;
        const Flow flow = run_scope(node.body, text);
        Value value = std::move(text);
        if (node.expr != nullptr) value = filter_block(*node.expr, value);
        if (node.kind == NodeKind::kSetBlock) {
          set_variable(node.targets[0], std::move(value));
        } else {
          emit(print(value, budget_), out);
        }
        return flow;
      }
      case NodeKind::kMacro:
        set_variable(node.text, Callable{Callable::Kind::kMacro, &node});
        break;
      case NodeKind::kBreak:
        return Flow::kBreak;
      case NodeKind::kContinue:
        return Flow::kContinue;
      case NodeKind::kGroup:
        return run_scope(node.body, out);
    }
    return Flow::kNext;
  }

  Flow run_scope(const Block& block, Text& out) {
    scopes_.emplace_back();
    const Flow flow = run_block(block, out);
    scopes_.pop_back();
    return flow;
  }

  // Filters of a block, innermost first.
  Value filter_block(const Expr& expr, const Value& text) {
    const Value value = expr.children[0] == nullptr ? text : filter_block(*expr.children[0], text);
    return apply_filter(expr.name, value, evaluate_arguments(expr), budget_);
  }

  void assign(const Node& node) {
    Value value = evaluate(*node.expr);
    if (!node.text.empty()) {
      const Value target = find_variable(node.targets[0]);
      if (!target.is_dict() || !target.dict().is_namespace) {
        throw TemplateError("only attributes of a namespace can be set");
      }
      target.dict().set(node.text, std::move(value));
      return;
    }
    assign_targets(node.targets, value);
  }

  void assign_targets(const std::vector<std::string>& targets, const Value& value) {
    if (targets.size() == 1) return set_variable(targets[0], value);
    const List items = items_of(value, budget_);
    if (items.size() != targets.size()) {
      throw TemplateError("cannot unpack " + std::to_string(items.size()) + " values into " +
                          std::to_string(targets.size()));
    }
    for (std::size_t i = 0; i < items.size(); ++i) set_variable(targets[i], items[i]);
  }

  Value loop_value(const List& items, std::size_t index, std::int64_t depth) {
    const auto number = [](std::size_t n) { return Value(static_cast<std::int64_t>(n)); };
    const std::size_t size = items.size();
    Dict loop;
    loop.set("index", number(index + 1));
    loop.set("index0", number(index));
    loop.set("revindex", number(size - index));
    loop.set("revindex0", number(size - index - 1));
    loop.set("first", index == 0);
    loop.set("last", index + 1 == size);
    loop.set("length", number(size));
    loop.set("depth", depth);
    loop.set("depth0", depth - 1);
    if (index > 0) loop.set("previtem", items[index - 1]);
    if (index + 1 < size) loop.set("nextitem", items[index + 1]);
    budget_.step(loop.items.size());
    return loop;
  }

  Flow run_for(const Node& node, Text& out) {
    List items = items_of(evaluate(*node.expr), budget_);
    if (node.condition != nullptr) {
      List chosen;
      for (const Value& item : items) {
        scopes_.emplace_back();
        assign_targets(node.targets, item);
        if (evaluate(*node.condition).truthy()) chosen.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(chosen);
    }
    if (items.empty()) return run_block(node.otherwise, out);
    ++loops_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      scopes_.emplace_back();
      set_variable("loop", loop_value(items, i, loops_));
      assign_targets(node.targets, items[i]);
      const Flow flow = run_block(node.body, out);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    --loops_;
    return Flow::kNext;
  }

  Value evaluate(const Expr& expr) {
    const Deeper deeper(*this);
    switch (expr.kind) {
      case ExprKind::kLiteral:
        return expr.value;
      case ExprKind::kName:
        return find_variable(expr.name);
      case ExprKind::kList: {
        List list;
        for (const ExprPtr& child : expr.children) list.push_back(evaluate(*child));
        budget_.step(list.size());
        return list;
      }
      case ExprKind::kDict: {
        Dict dict;
        for (std::size_t i = 0; i < expr.children.size(); i += 2) {
          const Value key = evaluate(*expr.children[i]);
          const Text& text = text_of(key, "the key of a dict");
          if (text.origin.find('u') != std::string::npos) dict.key_origin = 'u';
          dict.set(text.bytes, evaluate(*expr.children[i + 1]));
        }
        return dict;
      }
      case ExprKind::kUnary:
        return evaluate_unary(expr);
      case ExprKind::kBinary:
        return evaluate_binary(expr);
      case ExprKind::kCondition:
        if (evaluate(*expr.children[1]).truthy()) return evaluate(*expr.children[0]);
        return expr.children[2] == nullptr ? Value() : evaluate(*expr.children[2]);
      case ExprKind::kAttribute:
        return attribute(evaluate(*expr.children[0]), expr.name);
      case ExprKind::kItem:
        return member_of(evaluate(*expr.children[0]), evaluate(*expr.children[1]), budget_);
      case ExprKind::kSlice: {
        std::array<Value, 4> parts;
        for (std::size_t i = 0; i < parts.size(); ++i) {
          if (expr.children[i] != nullptr) parts[i] = evaluate(*expr.children[i]);
        }
        return slice_of(parts[0], parts[1], parts[2], parts[3], budget_);
      }
      case ExprKind::kCall:
        return call(evaluate(*expr.children[0]), expr);
      case ExprKind::kMethod:
        return method(evaluate(*expr.children[0]), expr);
      case ExprKind::kFilter:
        return apply_filter(expr.name, evaluate(*expr.children[0]), evaluate_arguments(expr),
                            budget_);
      case ExprKind::kTest:
        return apply_test(expr.name, evaluate(*expr.children[0]), evaluate_arguments(expr),
                          budget_) != expr.negated;
    }
    return {};
  }

  Value evaluate_unary(const Expr& expr) {
    const Value value = evaluate(*expr.children[0]);
    if (expr.name == "not") return !value.truthy();
    return expr.name == "-" ? apply_operator("-", std::int64_t{0}, value, budget_) : value;
  }

  Value evaluate_binary(const Expr& expr) {
    Value left = evaluate(*expr.children[0]);
    if (expr.name == "and") return left.truthy() ? evaluate(*expr.children[1]) : left;
    if (expr.name == "or") return left.truthy() ? left : evaluate(*expr.children[1]);
    return apply_operator(expr.name, left, evaluate(*expr.children[1]), budget_);
  }

  Value attribute(const Value& object, const std::string& name) {
    if (object.is_undefined()) {
      throw TemplateError("'" + object.undefined().name + "' is undefined");
    }
    if (!object.is_dict()) return Undefined{name};
    const Value* found = object.dict().find(name);
    return found == nullptr ? Value(Undefined{name}) : *found;
  }

  Arguments evaluate_arguments(const Expr& expr) {
    Arguments arguments;
    for (const ExprPtr& argument : expr.arguments) {
      arguments.positional.push_back(evaluate(*argument));
    }
    for (const auto& [name, argument] : expr.keywords) {
      arguments.keywords.emplace_back(name, evaluate(*argument));
    }
    return arguments;
  }

  Value method(const Value& object, const Expr& expr) {
    const Arguments arguments = evaluate_arguments(expr);
    if (object.is_dict()) {
      const Value* member = object.dict().find(expr.name);
      if (member != nullptr && member->is_callable()) return call_value(*member, arguments);
      // loop.cycle("odd", "even")
      const Value* index = object.dict().find("index0");
      if (expr.name == "cycle" && index != nullptr && !arguments.positional.empty()) {
        return arguments
            .positional[static_cast<std::size_t>(index->as_int()) % arguments.positional.size()];
      }
    }
    return call_method(object, expr.name, arguments, budget_);
  }

  Value call(const Value& function, const Expr& expr) {
    if (function.is_undefined()) {
      throw TemplateError("'" + function.undefined().name + "' is undefined");
    }
    if (!function.is_callable()) {
      throw TemplateError(std::string(function.kind()) + " cannot be called");
    }
    return call_value(function, evaluate_arguments(expr));
  }

  Value call_value(const Value& function, const Arguments& arguments) {
    switch (function.callable().kind) {
      case Callable::Kind::kRange:
        return range(arguments);
      case Callable::Kind::kNamespace:
      case Callable::Kind::kDict: {
        Dict dict;
        for (const auto& [name, value] : arguments.keywords) dict.set(name, value);
        dict.is_namespace = function.callable().kind == Callable::Kind::kNamespace;
        return dict;
      }
      case Callable::Kind::kRaise: {
        const Value* message = arguments.find(0, "message");
        throw TemplateError(message == nullptr ? "raise_exception"
                                               : print(*message, budget_).bytes);
      }
      case Callable::Kind::kStrftime:
        return strftime_now(arguments);
      case Callable::Kind::kMacro:
        return call_macro(*static_cast<const Node*>(function.callable().macro), arguments);
    }
    return {};
  }

  Value range(const Arguments& arguments) {
    const auto& given = arguments.positional;
    if (given.empty() || given.size() > 3) throw TemplateError("range needs 1 to 3 numbers");
    const std::int64_t begin = given.size() > 1 ? given[0].as_int() : 0;
    const std::int64_t end = given.size() > 1 ? given[1].as_int() : given[0].as_int();
    const std::int64_t step = given.size() > 2 ? given[2].as_int() : 1;
    if (step == 0) throw TemplateError("range with step 0");
    List list;
    std::int64_t at = begin;
    while (step > 0 ? at < end : at > end) {
      if (static_cast<std::int64_t>(list.size()) == kMaxRange) {
        throw TemplateError("a range of more than " + std::to_string(kMaxRange));
      }
      list.emplace_back(at);
      if (__builtin_add_overflow(at, step, &at)) break;
    }
    budget_.step(list.size());
    return list;
  }

  Value strftime_now(const Arguments& arguments) {
    const Value* format = arguments.find(0, "format");
    if (format == nullptr) throw TemplateError("strftime_now needs a format");
    const std::string pattern = text_of(*format, "strftime_now").bytes;
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    std::array<char, 256> buffer{};
    const std::size_t size = std::strftime(buffer.data(), buffer.size(), pattern.c_str(), &local);
    return Value::literal(std::string_view(buffer.data(), size));
  }

  // Sees its arguments and what the template has set outside of loops and macros.
  Value call_macro(const Node& macro, const Arguments& arguments) {
    const Deeper deeper(*this);
    Scope scope;
    if (arguments.positional.size() > macro.parameters.size()) {
      throw TemplateError("the macro " + macro.text + " takes fewer arguments");
    }
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, otherwise] = macro.parameters[i];
      const Value* given = arguments.find(i, name);
      scope.set(name, given != nullptr       ? *given
                      : otherwise != nullptr ? evaluate(*otherwise)
                                             : Value(Undefined{name}));
    }
    std::vector<Scope> inner(std::make_move_iterator(scopes_.begin() + 2),
                             std::make_move_iterator(scopes_.end()));
    scopes_.resize(2);
    scopes_.push_back(std::move(scope));
    Text out;
    run_block(macro.body, out);
    scopes_.resize(2);
    std::move(inner.begin(), inner.end(), std::back_inserter(scopes_));
    return out;
  }

  Budget budget_;
  std::vector<Scope> scopes_;  // [0] what is given, [1] the template's own, then loops and macros
  int depth_ = 0;
  std::int64_t loops_ = 0;
};

}  // namespace

Text run_template(const Block& block, const std::vector<std::pair<std::string, Value>>& variables) {
  return Evaluator(variables).run(block);
}

}  // namespace moba::jinja
