#include "tokenizer/chat_template/parser.h"

#include <initializer_list>

#include "tokenizer/chat_template/expression_parser.h"

namespace moba::jinja {
namespace {

constexpr int kMaxBlockDepth = 50;

class Parser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : in_(tokens) {}

  Block run() {
    Block block = parse_block({});
    if (in_.peek().kind != TokenKind::kEnd) in_.unexpected();
    return block;
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  std::unique_ptr<Node> make(NodeKind kind) const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = in_.peek().line;
    return node;
  }

  // Up to a tag with one of the names, whose {% and name are taken; last_tag_ is that name. Without
  // names: up to the end.
  Block parse_block(Names ends) {
    if (++depth_ > kMaxBlockDepth) fail_at(in_.peek().line, "blocks are nested too deep");
    Block block;
    for (;;) {
      const Token& token = in_.peek();
      if (token.kind == TokenKind::kText) {
        block.push_back(make(NodeKind::kText));
        block.back()->text = in_.take().text;
      } else if (token.kind == TokenKind::kPrintBegin) {
        in_.take();
        block.push_back(make(NodeKind::kPrint));
        block.back()->expr = in_.parse_tuple();
        expect(TokenKind::kPrintEnd);
      } else if (token.kind == TokenKind::kTagBegin) {
        in_.take();
        const int line = in_.peek().line;
        const std::string name = in_.expect_name();
        for (const std::string_view end : ends) {
          if (name != end) continue;
          last_tag_ = name;
          --depth_;
          return block;
        }
        block.push_back(parse_tag(name, line));
      } else {
        if (ends.size() > 0) in_.unexpected();
        --depth_;
        return block;
      }
    }
  }

  void expect(TokenKind kind) {
    if (in_.peek().kind != kind) in_.unexpected();
    in_.take();
  }
  void end_tag() { expect(TokenKind::kTagEnd); }

  std::unique_ptr<Node> parse_tag(const std::string& name, int line) {
    if (name == "if") return parse_if();
    if (name == "for") return parse_for();
    if (name == "set") return parse_set();
    if (name == "macro") return parse_macro();
    if (name == "filter") return parse_filter_block();
    if (name == "generation") return parse_group("endgeneration");
    if (name == "with") return parse_with();
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(line, name + " outside a loop");
      auto node = make(name == "break" ? NodeKind::kBreak : NodeKind::kContinue);
      end_tag();
      return node;
    }
    fail_at(line, "the tag " + name + " is not supported");
  }

  std::unique_ptr<Node> parse_if() {
    auto node = make(NodeKind::kIf);
    node->expr = in_.parse_tuple();
    end_tag();
    node->body = parse_block({"elif", "else", "endif"});
    if (last_tag_ == "elif") {
      // As deep as it is long; the depth of blocks bounds it.
      if (++depth_ > kMaxBlockDepth) fail_at(node->line, "blocks are nested too deep");
      node->otherwise.push_back(parse_if());
      --depth_;
      return node;
    }
    if (last_tag_ == "else") {
      end_tag();
      node->otherwise = parse_block({"endif"});
    }
    end_tag();
    return node;
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool paren = in_.take_op("(");
    do {
      targets.push_back(in_.expect_name());
    } while (in_.take_op(","));
    if (paren) in_.expect_op(")");
    return targets;
  }

  std::unique_ptr<Node> parse_for() {
    auto node = make(NodeKind::kFor);
    node->targets = parse_targets();
    if (!in_.take_name("in")) in_.unexpected();
    node->expr = in_.parse(/*with_condition=*/false);
    if (in_.is_op(",")) in_.unexpected();
    if (in_.take_name("if")) node->condition = in_.parse();
    if (in_.is_name("recursive")) fail_at(in_.peek().line, "recursive loops are not supported");
    end_tag();
    ++loops_;
    node->body = parse_block({"else", "endfor"});
    --loops_;
    if (last_tag_ == "else") {
      end_tag();
      node->otherwise = parse_block({"endfor"});
    }
    end_tag();
    return node;
  }

  std::unique_ptr<Node> parse_set() {
    auto node = make(NodeKind::kSet);
    node->targets = parse_targets();
    if (node->targets.size() == 1 && in_.take_op(".")) node->text = in_.expect_name();
    if (in_.take_op("=")) {
      node->expr = in_.parse_tuple();
      end_tag();
      return node;
    }
    node->kind = NodeKind::kSetBlock;
    if (node->targets.size() != 1 || !node->text.empty()) in_.unexpected();
    if (in_.take_op("|")) node->expr = in_.parse_filters(nullptr);
    end_tag();
    node->body = parse_block({"endset"});
    end_tag();
    return node;
  }

  std::unique_ptr<Node> parse_macro() {
    auto node = make(NodeKind::kMacro);
    node->text = in_.expect_name();
    in_.expect_op("(");
    while (!in_.take_op(")")) {
      std::string name = in_.expect_name();
      node->parameters.emplace_back(std::move(name), in_.take_op("=") ? in_.parse() : ExprPtr());
      if (!in_.is_op(")")) in_.expect_op(",");
    }
    end_tag();
    const int loops = std::exchange(loops_, 0);
    node->body = parse_block({"endmacro"});
    loops_ = loops;
    // The name may stand there again.
    if (in_.peek().kind == TokenKind::kName) in_.take();
    end_tag();
    return node;
  }

  std::unique_ptr<Node> parse_filter_block() {
    auto node = make(NodeKind::kFilter);
    node->expr = in_.parse_filters(nullptr);
    end_tag();
    node->body = parse_block({"endfilter"});
    end_tag();
    return node;
  }

  std::unique_ptr<Node> parse_group(std::string_view end) {
    auto node = make(NodeKind::kGroup);
    end_tag();
    node->body = parse_block({end});
    end_tag();
    return node;
  }

  // A group whose variables are set first.
  std::unique_ptr<Node> parse_with() {
    auto node = make(NodeKind::kGroup);
    while (in_.peek().kind != TokenKind::kTagEnd) {
      auto set = make(NodeKind::kSet);
      set->targets.push_back(in_.expect_name());
      in_.expect_op("=");
      set->expr = in_.parse();
      node->body.push_back(std::move(set));
      if (!in_.take_op(",")) break;
    }
    end_tag();
    for (auto& inner : parse_block({"endwith"})) node->body.push_back(std::move(inner));
    end_tag();
    return node;
  }

  ExpressionParser in_;
  std::string last_tag_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Block parse_template(std::string_view source) {
  const std::vector<Token> tokens = tokenize(source);
  return Parser(tokens).run();
}

}  // namespace moba::jinja
