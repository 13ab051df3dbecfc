#include "tokenizer/incremental_decoder.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/tokenizer/fixtures.h"
#include "tokenizer/utf8.h"

namespace moba::test {
namespace {

// Pushes all ids; checks that every part is valid UTF-8.
std::string stream(IncrementalDecoder& decoder, const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids) {
    const std::string part = decoder.push(id);
    if (!utf8::is_valid(part)) FAIL("half a character after id " << id);
    if (decoder.pending().size() > 3) FAIL("more held back than a character needs");
    out += part;
  }
  return out + decoder.finish();
}

TEST_CASE("streamed text equals decoded text") {
  std::vector<std::string> names = committed_tokenizers();
  names.insert(names.end(), {"llama2", "llama3"});
  for (const std::string& name : names) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    if (tokenizer == nullptr) continue;
    const bool skip = GENERATE(true, false);
    // The same decoder throughout: finish() starts a new text.
    IncrementalDecoder decoder(tokenizer, {skip, false});
    std::mt19937 random(11);
    int wrong = 0;
    const auto check = [&](const std::vector<TokenId>& ids) {
      if (stream(decoder, ids) != utf8::replace_invalid(tokenizer->decode(ids, skip))) ++wrong;
    };
    // Tokens of single bytes and special tokens come often, so that characters are put together and
    // broken off.
    std::vector<TokenId> often;
    for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
      const std::string bytes = tokenizer->token_bytes(id, false);
      const bool wide = !bytes.empty() && static_cast<unsigned char>(bytes.back()) >= 0x80;
      if (tokenizer->is_special(id) || (wide && !utf8::is_valid(bytes))) often.push_back(id);
      if (bytes.size() == 1 || bytes == "  ") often.push_back(id);
    }
    for (int i = 0; i < 2000; ++i) {
      std::vector<TokenId> ids(random() % 12);
      for (TokenId& id : ids) {
        const auto vocab = static_cast<unsigned>(tokenizer->vocab_size());
        id = random() % 2 == 0 ? often[random() % often.size()]
                               : static_cast<TokenId>(random() % vocab);
      }
      check(ids);
    }
    for (const NamedText& text : hard_texts()) check(tokenizer->encode(text.text, {true, true}));
    CHECK(wrong == 0);
  }
}

TEST_CASE("a character in several tokens comes out whole") {
  for (const std::string name : {"moba-books-19m", "gpt2"}) {
    INFO(name);
    const auto tokenizer = shared_tokenizer(name);
    const std::vector<TokenId> ids = tokenizer->encode("\U0001F9D9", {false, false});
    REQUIRE(ids.size() >= 3);
    IncrementalDecoder decoder(tokenizer);
    std::vector<std::string> parts;
    for (const TokenId id : ids) parts.push_back(decoder.push(id));
    CHECK(parts.back() == "\U0001F9D9");
    parts.pop_back();
    for (const std::string& part : parts) CHECK(part.empty());
    CHECK(decoder.finish().empty());

    decoder.push(ids[0]);
    decoder.push(ids[1]);
    CHECK(decoder.finish() == "\uFFFD");
    CHECK(decoder.pending().empty());
  }
}

TEST_CASE("a continuation keeps the space of its first token") {
  const auto tokenizer = shared_tokenizer("moba-books-19m");
  const std::vector<TokenId> ids = tokenizer->encode("the", {false, false});
  IncrementalDecoder text(tokenizer, {true, false});
  CHECK(text.push(ids[0]) == "the");
  CHECK(text.push(ids[0]) == " the");
  IncrementalDecoder continuation(tokenizer, {true, true});
  CHECK(continuation.push(ids[0]) == " the");
}

TEST_CASE("special tokens are skipped or shown") {
  const auto tokenizer = shared_tokenizer("qwen3");
  const TokenId end = tokenizer->token_id("<|im_end|>").value();
  IncrementalDecoder skips(tokenizer, {true, false});
  CHECK(skips.push(end).empty());
  IncrementalDecoder shows(tokenizer, {false, false});
  CHECK(shows.push(end) == "<|im_end|>");
}

TEST_CASE("an unknown id changes nothing") {
  const auto tokenizer = shared_tokenizer("gpt2");
  const std::vector<TokenId> ids = tokenizer->encode("\u00e9\U0001F9D9", {false, false});
  IncrementalDecoder decoder(tokenizer);
  std::string out;
  for (const TokenId id : ids) {
    CHECK_THROWS_AS(decoder.push(tokenizer->vocab_size()), std::out_of_range);
    CHECK_THROWS_AS(decoder.push(-1), std::out_of_range);
    out += decoder.push(id);
  }
  CHECK(out == "\u00e9\U0001F9D9");
}

}  // namespace
}  // namespace moba::test
