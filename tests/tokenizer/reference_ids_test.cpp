// Ids against the reference implementations, on hard texts, random texts, a stretch of a novel and
// every character of Unicode 14.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace moba::test {
namespace {

using nlohmann::json;

// Names of the texts whose ids differ, the first few.
void check_texts(const Tokenizer& tokenizer, const std::vector<NamedText>& texts,
                 const json& expected) {
  REQUIRE(expected.at("plain").size() == texts.size());
  REQUIRE(expected.at("parsed").size() == texts.size());
  std::string wrong;
  int num_wrong = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const json& plain = expected.at("plain").at(i);
    const json& parsed = expected.at("parsed").at(i);
    const bool plain_ok = ids_match(tokenizer.encode(texts[i].text, {true, false}), plain);
    const bool parsed_ok =
        ids_match(tokenizer.encode(texts[i].text, {true, true}), parsed.is_null() ? plain : parsed);
    if (plain_ok && parsed_ok) continue;
    if (++num_wrong <= 10) wrong += texts[i].name + (plain_ok ? " (parsed)\n" : " (plain)\n");
  }
  INFO("texts with other ids:\n" << wrong);
  CHECK(num_wrong == 0);
}

std::string sweep_text(const json& ranges) {
  std::string out;
  for (const json& range : ranges) {
    for (char32_t c = range.at(0); c <= range.at(1).get<char32_t>(); ++c) {
      std::string x;
      utf8::append(x, c);
      out += "a" + x + " " + x + "1" + x + x + "'" + x + "\n";
    }
  }
  return out;
}

void check_reference(const std::string& name) {
  const auto tokenizer = shared_tokenizer(name);
  if (tokenizer == nullptr) return;
  const json expected = read_json(data_file("ids/" + name + ".json"));
  check_texts(*tokenizer, hard_texts(), expected);
  CHECK(ids_match(tokenizer->encode(sample_text(), {false, false}), expected.at("sample")));
  const json blocks = read_json(data_file("sweep.json"));
  REQUIRE(blocks.size() == expected.at("sweep").size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    INFO("characters from " << blocks[i][0][0]);
    CHECK(hash_ids(tokenizer->encode(sweep_text(blocks[i]), {false, false})) ==
          expected.at("sweep").at(i).get<std::string>());
  }
}

TEST_CASE("ids equal the reference: gpt2") { check_reference("gpt2"); }
TEST_CASE("ids equal the reference: qwen3") { check_reference("qwen3"); }
TEST_CASE("ids equal the reference: llama3") { check_reference("llama3"); }
TEST_CASE("ids equal the reference: llama2") { check_reference("llama2"); }
TEST_CASE("ids equal the reference: mistral-v1") { check_reference("mistral-v1"); }
TEST_CASE("ids equal the reference: the embedded model") { check_reference("moba-books-19m"); }
TEST_CASE("ids equal the reference: SentencePiece model as tokenizer.json") {
  check_reference("pieces");
}

TEST_CASE("ids equal the reference: Unigram with a charsmap") { check_reference("unigram"); }

// The texts that are valid, with legacy off in tokenizer_config.json.
void check_without_legacy(const std::string& name) {
  const std::filesystem::path dir = tokenizer_dir(name);
  if (dir.empty()) return;
  ScratchDir scratch;
  std::filesystem::copy_file(dir / "tokenizer.model", scratch.path() / "tokenizer.model");
  write_bytes(scratch.path() / "tokenizer_config.json", R"({"legacy": false})");
  std::vector<NamedText> valid;
  for (const NamedText& text : hard_texts()) {
    if (!text.is_bytes) valid.push_back(text);
  }
  check_texts(*load_tokenizer(scratch.path()), valid,
              read_json(data_file("ids/" + name + "-no-legacy.json")));
}

TEST_CASE("ids without legacy equal the reference: llama2") { check_without_legacy("llama2"); }
TEST_CASE("ids without legacy equal the reference: mistral-v1") {
  check_without_legacy("mistral-v1");
}
TEST_CASE("ids without legacy equal the reference: Unigram with a charsmap") {
  check_without_legacy("unigram");
}
TEST_CASE("ids without legacy equal the reference: the embedded model") {
  check_without_legacy("moba-books-19m");
}

TEST_CASE("one tokenizer serves several threads") {
  for (const std::string name : {"qwen3", "moba-books-19m"}) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    std::vector<std::vector<TokenId>> expected;
    for (const NamedText& text : hard_texts()) {
      expected.push_back(tokenizer->encode(text.text, {true, true}));
    }
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (std::size_t k = 0; k < expected.size(); ++k) {
          const std::string& text = hard_texts()[k].text;
          if (tokenizer->encode(text, {true, true}) != expected[k]) ++wrong;
          if (tokenizer->decode(expected[k], true).size() > 100 * text.size() + 100) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
  }
}

TEST_CASE("decoding gives the text back") {
  std::vector<std::string> names = committed_tokenizers();
  names.insert(names.end(), {"llama2", "llama3"});
  for (const std::string& name : names) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    if (tokenizer == nullptr) continue;
    std::string wrong;
    for (const NamedText& text : hard_texts()) {
      // Qwen composes characters; SentencePiece takes its own space character for a space.
      if (!utf8::is_valid(text.text) || text.text.find("\u2581") != std::string::npos) continue;
      if (name == "qwen3") continue;
      const std::vector<TokenId> ids = tokenizer->encode(text.text, {true, false});
      if (tokenizer->decode(ids, true) != text.text) wrong += text.name + "\n";
    }
    CHECK(wrong.empty());
    CHECK(tokenizer->decode(tokenizer->encode(sample_text(), {true, false}), true) ==
          sample_text());
    for (TokenId id = 0; id < tokenizer->vocab_size(); id += 7) {
      const std::string token = tokenizer->token_name(id);
      if (!token.empty()) CHECK(tokenizer->token_id(token) == id);
    }
    CHECK_THROWS_AS(tokenizer->token_name(-1), std::out_of_range);
    CHECK_THROWS_AS(tokenizer->decode({0, tokenizer->vocab_size()}, false), std::out_of_range);
    CHECK(error_of([&] {
            tokenizer->token_bytes(9999999, false);
          }).starts_with("token id 9999999 is outside the vocabulary [0, "));
  }
}

}  // namespace
}  // namespace moba::test
