// Files that are missing, broken or hostile: one line that names the file and the key, nothing
// else.
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace moba::test {
namespace {

using nlohmann::json;

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// The error of loading a directory with these files; checks that it is one line that begins with
// the directory's path.
std::string load_error(const std::vector<std::pair<std::string, std::string>>& files) {
  ScratchDir scratch;
  for (const auto& [name, content] : files) write_bytes(scratch.path() / name, content);
  const std::string error = error_of([&] { load_tokenizer(scratch.path()); });
  const std::string prefix = scratch.path().string();
  CHECK(error.starts_with(prefix));
  CHECK(error.find('\n') == std::string::npos);
  CHECK(error.size() < prefix.size() + 500);
  return error.substr(std::min(prefix.size(), error.size()));
}

std::string json_error(const std::string& content) {
  return load_error({{"tokenizer.json", content}});
}

TEST_CASE("missing and unreadable files") {
  CHECK(
      contains(error_of([] { load_tokenizer("no/such/dir"); }), "no/such/dir: no such directory"));
  CHECK(load_error({}) == ": holds neither tokenizer.json nor tokenizer.model");
  CHECK(load_error({{"tokenizer.json", ""}}) == "/tokenizer.json: the file is empty");
  CHECK(load_error({{"tokenizer.model", ""}}) == "/tokenizer.model: the file is empty");
  ScratchDir scratch;
  std::filesystem::create_directory(scratch.path() / "tokenizer.json");
  CHECK(
      contains(error_of([&] { load_tokenizer(scratch.path()); }), "tokenizer.json: not a regular"));
}

TEST_CASE("tokenizer.json: not JSON") {
  CHECK(contains(json_error("{"), "/tokenizer.json: not valid JSON: "));
  CHECK(contains(json_error("hello"), "not valid JSON"));
  CHECK(contains(json_error("[]"), "expected a JSON object, got array"));
  CHECK(contains(json_error("7"), "expected a JSON object"));
  CHECK(contains(json_error("{\"a\": \"\xff\"}"), "not valid JSON"));
  CHECK(contains(json_error(std::string(1000, '\0')), "not valid JSON"));
  CHECK(contains(json_error("{\"a\": " + std::string(100000, '[')), "nested deeper"));
  CHECK(contains(json_error("{\"" + std::string(100000, 'x')), "not valid JSON"));
}

// A small good document with one value replaced; `pointer` is a JSON pointer.
std::string with(const std::string& pointer, const json& value) {
  static const json good = json::parse(R"({
    "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [3]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
  json document = good;
  document[json::json_pointer(pointer)] = value;
  return document.dump();
}

TEST_CASE("tokenizer.json: wrong values are named") {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.json", with("/version", "1.0"));
  REQUIRE(load_tokenizer(scratch.path())->encode("ab", {}) == std::vector<TokenId>{3, 2});

  struct Case {
    const char* pointer;
    json value;
    const char* error;
  };
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
  const std::vector<Case> cases = {
      {"/model", nullptr, "\"model\" is missing"},
      {"/model", 7, "model: expected an object, got number"},
      {"/model/type", "WordPiece", "model: model \"WordPiece\" is not supported (supported: BPE)"},
      {"/model/vocab", nullptr, "model: \"vocab\" is missing"},
      {"/model/vocab", json::array(), "model: \"vocab\" is missing"},
      {"/model/vocab", json::object(), "\"vocab\" is empty"},
      {"/model/vocab/a", "x", "model.vocab: the id of \"a\" is not an integer"},
      {"/model/vocab/a", 0.5, "model.vocab: the id of \"a\" is not an integer"},
      {"/model/vocab/a", json::object(), "model.vocab: the id of \"a\" is not an integer"},
      {"/model/vocab/a", -1, "token \"a\" has an id outside [0, 4194303]"},
      {"/model/vocab/a", 4194304, "token \"a\" has an id outside [0, 4194303]"},
      {"/model/vocab/a", 18446744073709551615U, "token \"a\" has an id outside"},
      {"/model/vocab/a", 1, "model.vocab: tokens \"a\" and \"b\" both have id 1"},
      {"/model/merges", nullptr, "\"merges\" is missing"},
      {"/model/merges", "a b", "\"merges\" is missing or not an array"},
      {"/model/merges/0", "ab", "model.merges[0]: \"ab\" is not two tokens"},
      {"/model/merges/0", "a b c", "model.merges[0]: \"a b c\" is not two tokens"},
      {"/model/merges/0", 5, "model.merges[0]: expected a string or a pair"},
      {"/model/merges/0", json::array({"a"}), "model.merges[0]: expected a pair"},
      {"/model/merges/0", json::array({"a", "b", "c"}), "model.merges[0]: expected a pair"},
      {"/model/merges/0", json::array({"a", 1}), "model.merges[0]: expected a string"},
      {"/model/merges/0", "a x", "model.merges[0]: token \"x\" is not in the vocabulary"},
      {"/model/merges/0", "b a", "model.merges[0]: token \"ba\" is not in the vocabulary"},
      {"/model/unk_token", "?", "model.unk_token: \"?\" is not in the vocabulary"},
      {"/model/byte_fallback", 1, "model.byte_fallback: expected true or false, got number"},
      {"/model/dropout", 0.1, "dropout \"0.1\" is not supported"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix \"</w>\" is not supported"},
      {"/normalizer", "NFC", "normalizer: expected an object, got string"},
      {"/normalizer/type", "Lowercase", "normalizer: normalizer \"Lowercase\" is not supported"},
      {"/normalizer/type", 1, "normalizer.type: expected a string, got number"},
      {"/normalizer", json::object(), "normalizer: \"type\" is missing"},
      {"/pre_tokenizer/type", "BertPreTokenizer", "\"BertPreTokenizer\" is not supported"},
      {"/pre_tokenizer/pretokenizers", 1, "pre_tokenizer.pretokenizers: expected an array"},
      {"/pre_tokenizer/pretokenizers/0", split,
       "pre_tokenizer.pretokenizers[0].pattern.Regex: invalid regular expression at offset 1"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "[a&&b]", "&& inside a class"},
      {"/pre_tokenizer/pretokenizers/0/pattern", json::object(), "\"Regex\" is missing"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Odd", "behavior \"Odd\" is not supported"},
      {"/pre_tokenizer/pretokenizers/0/invert", "no", "invert: expected true or false"},
      {"/pre_tokenizer/pretokenizers/2", split, "a pre-tokenizer after ByteLevel"},
      {"/post_processor/type", "BertProcessing", "\"BertProcessing\" is not supported"},
      {"/post_processor/single", json::array(), "the template has no place for the text"},
      {"/post_processor/single/0/SpecialToken/id", "<x>", "token \"<x>\" is not among"},
      {"/post_processor/special_tokens/<s>/ids/0", 99, "id 99 is not in the vocabulary"},
      {"/decoder/type", "WordPiece", "decoder: decoder \"WordPiece\" is not supported"},
      {"/added_tokens", 1, "added_tokens: expected an array"},
      {"/added_tokens/0/id", -1, "added_tokens[0].id: -1 is outside [0, 4194303]"},
      {"/added_tokens/0/id", 1e30, "added_tokens[0].id: expected an integer"},
      {"/added_tokens/0/id", 1, "tokens \"b\" and \"<s>\" both have id 1"},
      {"/added_tokens/0/content", "a", "token \"a\" has id 3 here and 0 in the vocabulary"},
      {"/added_tokens/0/content", nullptr, "added_tokens[0]: \"content\" is missing"},
      {"/added_tokens/0/special", "yes", "added_tokens[0].special: expected true or false"},
  };
  for (const Case& c : cases) {
    INFO(c.pointer << " = " << c.value.dump());
    const std::string error = json_error(with(c.pointer, c.value));
    INFO(error);
    CHECK(error.starts_with("/tokenizer.json: "));
    CHECK(contains(error, c.error));
  }
  CHECK(contains(json_error(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})"),
                 "model.vocab: token \"a\" is defined twice, with ids 0 and 1"));
  CHECK(contains(json_error(R"({"model": {"vocab": {}, "vocab": {}, "merges": []}})"),
                 "model.vocab: given twice"));
}

TEST_CASE("tokenizer_config.json: wrong values are named") {
  const std::string good = with("/version", "1.0");
  const auto config_error = [&](const char* config) {
    return load_error({{"tokenizer.json", good}, {"tokenizer_config.json", config}});
  };
  CHECK(contains(config_error("{"), "/tokenizer_config.json: not valid JSON"));
  CHECK(contains(config_error("[]"), "/tokenizer_config.json: expected a JSON object"));
  CHECK(contains(config_error(R"({"add_bos_token": "yes"})"), "add_bos_token: expected true"));
  CHECK(contains(config_error(R"({"bos_token": 5})"), "bos_token: expected a string"));
  CHECK(contains(config_error(R"({"bos_token": {}})"), "bos_token: \"content\" is missing"));
  CHECK(contains(config_error(R"({"added_tokens_decoder": {"x": {"content": "y"}}})"),
                 "added_tokens_decoder.x: \"x\" is not a token id"));
  CHECK(contains(config_error(R"({"added_tokens_decoder": {"99999999999": {"content": "y"}}})"),
                 "is not a token id"));
  CHECK(contains(config_error(R"({"added_tokens_decoder": {"1": {"content": "y"}}})"),
                 "tokens \"b\" and \"y\" both have id 1"));
  const char* eos = R"({"tokenizer_class": "LlamaTokenizer", "add_eos_token": true})";
  CHECK(contains(config_error(eos), "add_eos_token: true, but \"eos_token\" names no known token"));
  const std::string model = read_bytes(tokenizer_dir("moba-books-19m") / "tokenizer.model");
  CHECK(contains(load_error({{"tokenizer.model", model}, {"added_tokens.json", R"({"<x>": "1"})"}}),
                 "/added_tokens.json: <x>: expected an integer"));
  CHECK(
      contains(load_error({{"tokenizer.model", model}, {"added_tokens.json", R"({"<s>": 9000})"}}),
               "token \"<s>\" is defined twice, with ids 1 and 9000"));
}

TEST_CASE("tokenizer.json: cut off at any point") {
  const std::string good = with("/version", "1.0");
  for (std::size_t size = 1; size < good.size(); ++size) {
    if (!contains(json_error(good.substr(0, size)), "not valid JSON")) FAIL("cut at " << size);
  }
}

// The sentencepiece library reads out of bounds for such a charsmap.
TEST_CASE("tokenizer.model: damaged charsmap") {
  const std::string good = read_bytes(tokenizer_dir("unigram") / "tokenizer.model");
  const std::string name = "nmt_nfkc\x12";
  const std::size_t found = good.find(name);
  REQUIRE(found != std::string::npos);
  // Behind the name: the length of the charsmap in three bytes, then the charsmap.
  const std::size_t charsmap = found + name.size() + 3;
  ScratchDir scratch;
  const auto load = [&](const std::string& model) {
    write_bytes(scratch.path() / "tokenizer.model", model);
    return error_of([&] {
      load_tokenizer(scratch.path())->encode("Some \u00C5 text. \xff\u4E2D\u6587 x\u0301", {});
    });
  };
  CHECK(load(good) == "no error");
  std::string damaged = good;
  damaged[charsmap + 2] = '\x7f';  // the size of the array
  CHECK(contains(load(damaged), "tokenizer.model: the normaliser's charsmap is damaged"));
  damaged = good;
  damaged[charsmap + 7] = '\x7f';  // the offset of its root
  CHECK(contains(load(damaged), "tokenizer.model: the normaliser's charsmap is damaged"));
  std::mt19937 random(9);
  int refused = 0;
  for (int i = 0; i < 60; ++i) {
    damaged = good;
    for (int k = 0; k < 200; ++k) {
      damaged[charsmap + 4 + random() % 200000] = static_cast<char>(random());
    }
    if (load(damaged) != "no error") ++refused;
  }
  CHECK(refused > 0);
}

TEST_CASE("tokenizer.model: cut off or damaged") {
  const std::string good = read_bytes(tokenizer_dir("moba-books-19m") / "tokenizer.model");
  std::mt19937 random(5);
  ScratchDir scratch;
  const auto load = [&](const std::string& model) {
    write_bytes(scratch.path() / "tokenizer.model", model);
    return error_of([&] { load_tokenizer(scratch.path())->encode("Some text.\xff", {}); });
  };
  CHECK(load(good) == "no error");
  for (int i = 0; i < 60; ++i) {
    // Between two fields the rest is a valid, smaller model, which lacks its settings or its
    // pieces.
    const std::string error = load(good.substr(0, 1 + random() % (good.size() - 1)));
    CHECK(error.find('\n') == std::string::npos);
    if (error != "no error") CHECK(contains(error, "tokenizer.model: "));
  }
  for (int i = 0; i < 60; ++i) {
    std::string damaged = good;
    for (int k = 0; k < 3; ++k) damaged[random() % 400] = static_cast<char>(random());
    const std::string error = load(damaged);
    CHECK(error.find('\n') == std::string::npos);
  }
  CHECK(contains(load("hello"), "tokenizer.model: the file is cut off or is not a SentencePiece"));
  CHECK(contains(load(std::string(100000, '\0')), "not a SentencePiece"));
  CHECK(contains(load("\x0A\xFF\xFF\xFF\xFF\x0F"), "not a SentencePiece"));
  CHECK(contains(load(std::string("\x12\x02\x18\x09", 4)), "unknown type 9"));
}

}  // namespace
}  // namespace moba::test
