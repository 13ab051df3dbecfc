// Tokenizers given as lists (GGUF) against the same ones from their files.
#include "tokenizer/tokenizer_description.h"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/json_view.h"
#include "tokenizer/sentencepiece_proto.h"
#include "tokenizer/tokenizer_json.h"

namespace moba::test {
namespace {

using Kind = TokenizerDescription::Kind;
using TokenKind = TokenizerDescription::TokenKind;

// Lists of a tokenizer.json, whose strings live as long as this.
struct ByteLevelLists {
  TokenizerJson json;
  std::vector<std::string> merges;
  std::vector<std::string> added;
  TokenizerDescription description;
};

void fill(const std::string& name, const std::string& pre_tokenizer, ByteLevelLists& out) {
  out.json = read_tokenizer_json(tokenizer_dir(name) / "tokenizer.json");
  TokenizerDescription& d = out.description;
  d.source = "model.gguf";
  d.pre_tokenizer = pre_tokenizer;
  const auto& added = out.json.document.at("added_tokens");
  out.added.reserve(added.size());
  const auto put = [&](std::size_t id, std::string_view text, TokenKind kind) {
    if (d.tokens.size() <= id) {
      d.tokens.resize(id + 1);
      d.kinds.resize(id + 1, TokenKind::kUnused);
    }
    d.tokens[id] = text;
    d.kinds[id] = kind;
  };
  for (const auto& entry : out.json.vocab) {
    put(static_cast<std::size_t>(entry.id), out.json.name(entry), TokenKind::kNormal);
  }
  for (const auto& token : added) {
    out.added.push_back(token.at("content"));
    put(token.at("id"), out.added.back(),
        token.at("special").get<bool>() ? TokenKind::kControl : TokenKind::kUserDefined);
  }
  for (const auto& merge : out.json.merges) {
    const auto [left, right] = out.json.names(merge);
    out.merges.push_back(std::string(left) + " " + std::string(right));
  }
  d.merges.assign(out.merges.begin(), out.merges.end());
}

void check_same(const Tokenizer& got, const Tokenizer& expected) {
  CHECK(got.vocab_size() == expected.vocab_size());
  int wrong = 0;
  std::string names;
  for (const NamedText& text : hard_texts()) {
    for (const bool parse : {false, true}) {
      if (got.encode(text.text, {false, parse}) == expected.encode(text.text, {false, parse}))
        continue;
      if (++wrong <= 10) names += text.name + "\n";
    }
  }
  INFO("texts with other ids:\n" << names);
  CHECK(wrong == 0);
  const std::vector<TokenId> ids = got.encode(sample_text(), {false, false});
  CHECK(ids == expected.encode(sample_text(), {false, false}));
  CHECK(got.decode(ids, true) == expected.decode(ids, true));
}

TokenizerDescription small_bpe() {
  TokenizerDescription d;
  d.source = "model.gguf";
  d.pre_tokenizer = "gpt-2";
  d.tokens = {"a", "b", "ab", "<s>"};
  d.kinds = {TokenKind::kNormal, TokenKind::kNormal, TokenKind::kNormal, TokenKind::kControl};
  d.merges = {"a b"};
  return d;
}

}  // namespace

TEST_CASE("byte-level lists give the ids of tokenizer.json") {
  for (const auto& [name, pre] : {std::pair{"gpt2", "gpt-2"}, std::pair{"qwen3", "qwen2"}}) {
    INFO(name);
    const auto expected = shared_tokenizer(name);
    if (expected == nullptr) continue;
    ByteLevelLists lists;
    fill(name, pre, lists);
    check_same(*make_tokenizer(lists.description), *expected);
  }
}

TEST_CASE("SentencePiece lists give the ids of tokenizer.model") {
  for (const char* name : {"moba-books-19m", "mistral-v1"}) {
    INFO(name);
    const auto expected = shared_tokenizer(name);
    if (expected == nullptr) continue;
    const std::string model = read_bytes(tokenizer_dir(name) / "tokenizer.model");
    const SentencePieceSpec spec = read_sentencepiece_spec(model);
    TokenizerDescription d;
    d.source = "model.gguf";
    d.kind = Kind::kSentencePiece;
    d.add_space_prefix = spec.add_dummy_prefix;
    d.remove_extra_whitespaces = spec.remove_extra_whitespaces;
    for (const SentencePieceSpec::Piece& piece : spec.pieces) {
      d.tokens.push_back(piece.text);
      d.scores.push_back(piece.score);
      d.kinds.push_back(static_cast<TokenKind>(piece.type));
    }
    d.bos = expected->bos_id();
    d.eos = expected->eos_id();
    check_same(*make_tokenizer(d), *expected);
  }
}

TEST_CASE("what goes around a text follows the description") {
  TokenizerDescription d = small_bpe();
  d.bos = 3;
  CHECK(make_tokenizer(d)->encode("ab", {true, false}) == std::vector<TokenId>{2});
  d.add_bos = true;
  CHECK(make_tokenizer(d)->encode("ab", {true, false}) == std::vector<TokenId>{3, 2});
  d.eos = 3;
  d.add_eos = true;
  CHECK(make_tokenizer(d)->encode("a<s>", {true, true}) == std::vector<TokenId>{3, 0, 3, 3});
  CHECK(make_tokenizer(d)->is_special(3));
}

TEST_CASE("broken lists are refused in one line") {
  const auto refusal = [](auto&& edit) {
    TokenizerDescription d = small_bpe();
    edit(d);
    std::string message = error_of([&] { make_tokenizer(d); });
    INFO(message);
    CHECK(message.find("model.gguf: tokenizer.ggml.") == 0);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  };
  const auto has = [](const std::string& message, const char* part) {
    return message.find(part) != std::string::npos;
  };
  CHECK(has(refusal([](auto& d) { d.pre_tokenizer = "mystery"; }), "\"mystery\" is not supported"));
  CHECK(has(refusal([](auto& d) { d.tokens.clear(); }), "is empty"));
  CHECK(has(refusal([](auto& d) { d.kinds.pop_back(); }), "3 elements for 4 tokens"));
  CHECK(has(refusal([](auto& d) { d.tokens[1] = "a"; }), "tokens"));
  CHECK(has(refusal([](auto& d) { d.merges.push_back("a z"); }), "merges[1]"));
  CHECK(has(refusal([](auto& d) { d.merges.push_back("ab"); }), "not two tokens"));
  CHECK(has(refusal([](auto& d) { d.merges.push_back(""); }), "not two tokens"));
  CHECK(has(refusal([](auto& d) { d.merges.push_back("a a"); }), "merges[1]"));
  CHECK(has(refusal([](auto& d) { d.bos = 4; }), "is 4 of a vocabulary of 4"));
  CHECK(has(refusal([](auto& d) { d.kind = Kind::kSentencePiece; }), "0 elements for 4 tokens"));
}

}  // namespace moba::test
