// tokenizer.json beyond the vocabularies that are in use: kinds of normaliser, pre-tokenizer, added
// token and post-processor.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/tokenizer.h"

namespace moba::test {
namespace {

using nlohmann::json;

const json& base_document(const std::string& name) {
  static std::map<std::string, json> loaded;
  json& document = loaded[name];
  if (document.is_null()) document = read_json(tokenizer_dir(name) / "tokenizer.json");
  return document;
}

std::shared_ptr<const Tokenizer> load_document(const json& document, const char* config = nullptr) {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.json", document.dump());
  if (config != nullptr) write_bytes(scratch.path() / "tokenizer_config.json", config);
  return load_tokenizer(scratch.path());
}

TEST_CASE("variants of tokenizer.json give the reference's ids") {
  const json fixture = read_json(data_file("variants.json"));
  const std::vector<NamedText> texts = parse_texts(fixture.at("texts"));
  for (const json& variant : fixture.at("variants")) {
    INFO(variant.at("name").get<std::string>());
    json document = base_document(variant.at("base"));
    for (const auto& [key, value] : variant.at("top").items()) document[key] = value;
    for (const auto& [key, value] : variant.at("model").items()) document["model"][key] = value;
    const auto tokenizer = load_document(document);
    std::string wrong;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto hash = [&](bool parse) {
        return hash_ids(tokenizer->encode(texts[i].text, {true, parse})).substr(0, 8);
      };
      const std::string plain = variant.at("plain").at(i);
      const json& parsed = variant.at("parsed").at(i);
      if (hash(false) != plain) wrong += texts[i].name + " (plain)\n";
      if (hash(true) != (parsed.is_null() ? plain : parsed.get<std::string>())) {
        wrong += texts[i].name + " (parsed)\n";
      }
    }
    INFO("texts with other ids:\n" << wrong);
    CHECK(wrong.empty());
  }
}

TEST_CASE("clean_up_tokenization_spaces does not take spaces from the text") {
  // GPT-2's tokenizer_config.json has it on; ids and text are those of transformers 5.23.
  const json config = read_json(tokenizer_dir("gpt2") / "tokenizer_config.json");
  REQUIRE(config.at("clean_up_tokenization_spaces") == true);
  const auto tokenizer = shared_tokenizer("gpt2");
  const std::string text = "Hello , world ! do n't you ' re it 's . Yes ?";
  const std::vector<TokenId> ids = {15496, 837, 995, 5145, 466, 299, 470,  345,
                                    705,   302, 340, 705,  82,  764, 3363, 5633};
  CHECK(tokenizer->encode(text, {}) == ids);
  CHECK(tokenizer->decode(ids, true) == text);
}

// A byte-level vocabulary of all single bytes, "ab", "abc" and two special tokens.
json small_document() {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[byte_level::spell(std::string(1, static_cast<char>(byte)))] = byte;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  json document;
  document["added_tokens"] = json::array({{{"id", 258}, {"content", "<s>"}, {"special", true}},
                                          {{"id", 259}, {"content", "</s>"}, {"special", true}}});
  document["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  document["decoder"] = {{"type", "ByteLevel"}};
  document["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array({"a b", "ab c"})}};
  return document;
}

json template_processor() {
  return json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [258], "tokens": ["<s>"]}}})");
}

using Ids = std::vector<TokenId>;

TEST_CASE("merges as strings and as pairs") {
  json document = small_document();
  CHECK(load_document(document)->encode("abcab", {}) == Ids{257, 256});
  document["model"]["merges"] = json::array({json::array({"a", "b"}), json::array({"ab", "c"})});
  CHECK(load_document(document)->encode("abcab", {}) == Ids{257, 256});
  document["model"]["merges"] = json::array({"#version: 0.2", "a b"});
  CHECK(load_document(document)->encode("abc", {}) == Ids{256, 'c'});
  // The order of keys in the file does not matter.
  ScratchDir scratch;
  const std::string merges_first =
      R"({"decoder": {"type": "ByteLevel"}, "model": {"merges": ["a b"],
    "vocab": {"a": 0, "b": 1, "ab": 7}}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}})";
  write_bytes(scratch.path() / "tokenizer.json", merges_first);
  const auto tokenizer = load_tokenizer(scratch.path());
  CHECK(tokenizer->encode("aabb", {}) == Ids{0, 7, 1});
  // Bytes outside the vocabulary vanish without an unknown token; ids that no token has decode to
  // nothing.
  CHECK(tokenizer->encode("a?b", {}) == Ids{0, 1});
  CHECK(tokenizer->vocab_size() == 8);
  CHECK(tokenizer->decode({0, 3, 1}, false) == "ab");
}

TEST_CASE("tokens around a text") {
  json document = small_document();
  const EncodeOptions bare{false, false};
  const EncodeOptions full{true, false};
  CHECK(load_document(document)->encode("a", full) == Ids{'a'});
  CHECK_FALSE(load_document(document)->bos_id());
  document["post_processor"] = template_processor();
  CHECK(load_document(document)->encode("a", full) == Ids{258, 'a'});
  CHECK(load_document(document)->encode("a", bare) == Ids{'a'});
  CHECK(load_document(document)->bos_id() == 258);
  CHECK(load_document(document)->encode("", full) == Ids{258});

  const char* llama = R"({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>",
    "eos_token": {"content": "</s>"}, "add_bos_token": false, "add_eos_token": true})";
  const auto tokenizer = load_document(document, llama);
  CHECK(tokenizer->encode("a", full) == Ids{'a', 259});
  CHECK(tokenizer->bos_id() == 258);
  CHECK(tokenizer->eos_id() == 259);
  // Other classes take the file as it is.
  const char* other = R"({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
    "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true})";
  CHECK(load_document(document, other)->encode("a", full) == Ids{258, 'a'});
}

TEST_CASE("special tokens named in tokenizer_config.json only") {
  const char* config = R"({"eos_token": "abc", "added_tokens_decoder":
    {"300": {"content": "<new>", "special": true}, "258": {"content": "<s>", "special": true}}})";
  const auto tokenizer = load_document(small_document(), config);
  CHECK(tokenizer->eos_id() == 257);
  CHECK(tokenizer->is_special(257));
  CHECK(tokenizer->vocab_size() == 301);
  CHECK(tokenizer->encode("<new>abc", {true, true}) == Ids{300, 257});
  CHECK(tokenizer->decode({300, 'a'}, true) == "a");
  CHECK(tokenizer->decode({300, 'a'}, false) == "<new>a");
}

TEST_CASE("an unsupported tokenizer.json gives way to tokenizer.model") {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.json",
              R"({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}})");
  const std::string error = error_of([&] { load_tokenizer(scratch.path()); });
  CHECK(error.find("model \"Unigram\" is not supported") != std::string::npos);
  std::filesystem::copy_file(tokenizer_dir("moba-books-19m") / "tokenizer.model",
                             scratch.path() / "tokenizer.model");
  CHECK(load_tokenizer(scratch.path())->vocab_size() == 8192);
  // A broken one does not.
  write_bytes(scratch.path() / "tokenizer.json", "{");
  CHECK(error_of([&] { load_tokenizer(scratch.path()); }).find("not valid JSON") !=
        std::string::npos);
}

}  // namespace
}  // namespace moba::test
