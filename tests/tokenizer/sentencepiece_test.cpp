// SentencePiece models: cutting a text into words changes no id, settings of tokenizer_config.json,
// decoding.
#include <sentencepiece_processor.h>

#include <random>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/incremental_decoder.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace moba::test {
namespace {

constexpr EncodeOptions kBare{false, false};

std::vector<TokenId> library_ids(const sentencepiece::SentencePieceProcessor& library,
                                 const std::string& text) {
  std::vector<int> ids;
  REQUIRE(library.Encode(text, &ids).ok());
  return ids;
}

// Text of the vocabulary's own pieces, cut at random places and joined without spaces, so that
// merges meet at every seam.
std::string random_text(const Tokenizer& tokenizer, std::mt19937& random) {
  std::string out;
  const int parts = 1 + static_cast<int>(random() % 12);
  for (int i = 0; i < parts; ++i) {
    switch (random() % 6) {
      case 0:
        out.append(random() % 4 + 1, ' ');
        break;
      case 1:
        out.push_back(static_cast<char>(random() % 256));
        break;
      case 2: {
        const auto c = static_cast<char32_t>(random() % 0x3000);
        utf8::append(out, c);
        break;
      }
      default: {
        const auto id =
            static_cast<TokenId>(random() % static_cast<unsigned>(tokenizer.vocab_size()));
        const std::string piece = tokenizer.token_bytes(id, true);
        out.append(piece, random() % (piece.size() + 1));
        break;
      }
    }
  }
  return out;
}

TEST_CASE("encoding word by word gives the ids of the whole text") {
  for (const std::string name : {"moba-books-19m", "mistral-v1", "llama2"}) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    if (tokenizer == nullptr) continue;
    sentencepiece::SentencePieceProcessor library;
    REQUIRE(library.Load((tokenizer_dir(name) / "tokenizer.model").string()).ok());
    std::mt19937 random(7);
    int wrong = 0;
    for (int i = 0; i < 3000; ++i) {
      const std::string text = random_text(*tokenizer, random);
      if (tokenizer->encode(text, kBare) != library_ids(library, text)) ++wrong;
    }
    CHECK(wrong == 0);
    const std::string book = sample_text().substr(0, 20000);
    CHECK(tokenizer->encode(book, kBare) == library_ids(library, book));
  }
}

// The embedded model's file with more fields of its normaliser set, in protocol buffers' wire
// format.
std::string model_with(std::string_view normalizer_fields) {
  std::string model = read_bytes(tokenizer_dir("moba-books-19m") / "tokenizer.model");
  model.append("\x1A").append(1, static_cast<char>(normalizer_fields.size()));
  return model.append(normalizer_fields);
}

TEST_CASE("a model that squeezes white space gets the whole text at once") {
  ScratchDir scratch;
  const std::string model = model_with(std::string_view("\x20\x01", 2));
  write_bytes(scratch.path() / "tokenizer.model", model);
  sentencepiece::SentencePieceProcessor library;
  REQUIRE(library.LoadFromSerializedProto(model).ok());
  const auto tokenizer = load_tokenizer(scratch.path());
  CHECK(tokenizer->leading_space() == LeadingSpace::kStripAll);
  for (const std::string text : {"a  b   c ", "  two words", "one", " ", ""}) {
    CHECK(tokenizer->encode(text, kBare) == library_ids(library, text));
  }
  CHECK(tokenizer->decode(tokenizer->encode("  two   words ", {true, false}), true) == "two words");

  // Without legacy the name of the unknown token shields a space at the start.
  write_bytes(scratch.path() / "tokenizer_config.json", R"({"legacy": false})");
  const auto modern = load_tokenizer(scratch.path());
  CHECK(modern->decode(modern->encode("two  words", kBare), true) == "two words");
  CHECK(modern->encode("two words", kBare) == tokenizer->encode("two words", kBare));
}

TEST_CASE("a model without a dummy prefix adds and removes no space") {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.model", model_with(std::string_view("\x18\x00", 2)));
  const auto tokenizer = load_tokenizer(scratch.path());
  CHECK(tokenizer->leading_space() == LeadingSpace::kKeep);
  for (const std::string text : {"the", " the", "  the", ""}) {
    CHECK(tokenizer->decode(tokenizer->encode(text, {true, false}), true) == text);
  }
  CHECK(tokenizer->encode("the", kBare) != tokenizer->encode(" the", kBare));
}

TEST_CASE("tokenizer_config.json decides what stands around a text") {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.model",
              read_bytes(tokenizer_dir("moba-books-19m") / "tokenizer.model"));
  const auto load = [&](const char* config) {
    write_bytes(scratch.path() / "tokenizer_config.json", config);
    return load_tokenizer(scratch.path());
  };
  const auto plain = load("{}");
  const std::vector<TokenId> hello = plain->encode("Hello", kBare);
  const auto with = [&](std::vector<TokenId> before, const std::vector<TokenId>& after) {
    before.insert(before.end(), hello.begin(), hello.end());
    before.insert(before.end(), after.begin(), after.end());
    return before;
  };
  CHECK(plain->bos_id() == 1);
  CHECK(plain->eos_id() == 2);
  CHECK(plain->encode("Hello", {true, false}) == with({1}, {}));
  CHECK(load(R"({"add_bos_token": false})")->encode("Hello", {true, false}) == hello);
  CHECK(load(R"({"add_eos_token": true})")->encode("Hello", {true, false}) == with({1}, {2}));
  const auto swapped = load(R"({"bos_token": {"content": "</s>"}, "eos_token": "<s>"})");
  CHECK(swapped->bos_id() == 2);
  CHECK(swapped->eos_id() == 1);
  CHECK(swapped->encode("Hello", {true, false}) == with({2}, {}));
}

TEST_CASE("added tokens beside a SentencePiece model") {
  ScratchDir scratch;
  write_bytes(scratch.path() / "tokenizer.model",
              read_bytes(tokenizer_dir("moba-books-19m") / "tokenizer.model"));
  write_bytes(scratch.path() / "tokenizer_config.json", R"({
    "added_tokens_decoder": {
      "8192": {"content": "<|user|>", "special": true},
      "8193": {"content": "<mark>", "special": false, "rstrip": true},
      "300": {"content": "<renamed>", "special": true}}})");
  write_bytes(scratch.path() / "added_tokens.json", R"({"<more>": 8200})");
  const auto tokenizer = load_tokenizer(scratch.path());
  CHECK(tokenizer->vocab_size() == 8201);
  CHECK(tokenizer->token_id("<|user|>") == 8192);
  CHECK(tokenizer->is_special(8192));
  CHECK_FALSE(tokenizer->is_special(8193));
  CHECK(tokenizer->token_name(300) == "<renamed>");
  CHECK(tokenizer->token_name(8195).empty());
  const auto encode = [&](const char* text, bool parse) {
    return tokenizer->encode(text, {false, parse});
  };
  CHECK(encode("<|user|><renamed><more>", true) == std::vector<TokenId>{8192, 300, 8200});
  CHECK(encode("<|user|>", false).size() > 1);
  CHECK(encode("<mark>  <mark>", false) == std::vector<TokenId>{8193, 8193});
  CHECK(encode("<s>", true) == std::vector<TokenId>{1});
  CHECK(encode("<s>", false).size() > 1);
  CHECK(tokenizer->decode({1, 8192, 8193}, true) == "<mark>");
  CHECK(tokenizer->decode({1, 8192, 8193}, false) == "<s><|user|><mark>");
}

TEST_CASE("the space before the first word goes only at the start of a text") {
  const auto tokenizer = shared_tokenizer("moba-books-19m");
  const std::vector<TokenId> ids = tokenizer->encode("The king", {true, false});
  REQUIRE(ids.size() >= 3);
  CHECK(tokenizer->token_name(ids[1]).starts_with("\u2581"));
  CHECK(tokenizer->token_bytes(ids[1], true).starts_with(" "));
  CHECK(tokenizer->decode(ids, true) == "The king");
  CHECK(tokenizer->decode(ids, false) == "<s> The king");
  CHECK(tokenizer->decode({ids[1], ids[1]}, true) ==
        tokenizer->token_bytes(ids[1], true).substr(1) + tokenizer->token_bytes(ids[1], true));
}

}  // namespace
}  // namespace moba::test
