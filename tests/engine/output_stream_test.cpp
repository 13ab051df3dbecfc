#include "engine/output_stream.h"

#include "tests/engine/engine_test_util.h"
#include "tests/engine/hash_model.h"

namespace moba {
namespace {

struct Fed {
  std::string text;
  std::vector<std::string> pieces;
  bool ended = false;
  FinishReason reason = FinishReason::kNone;
  std::string stop_reason;
  std::size_t num_tokens = 0;
};

// Feeds ids until the output ends; the last may be the last allowed.
Fed feed(const SamplingParams& params, const std::vector<std::int32_t>& ids, bool limited = true,
         const std::vector<std::int32_t>& eos = {ByteTokenizer::kEos}) {
  OutputStream stream(std::make_shared<ByteTokenizer>(), params, eos);
  Fed fed;
  for (std::size_t i = 0; i < ids.size() && !fed.ended; ++i) {
    fed.ended = stream.push(ids[i], limited && i + 1 == ids.size());
    fed.pieces.push_back(stream.new_text());
    fed.text += stream.new_text();
    ++fed.num_tokens;
  }
  if (!fed.ended) fed.text += stream.take_rest();
  fed.reason = stream.finish_reason();
  fed.stop_reason = stream.stop_reason();
  return fed;
}

std::vector<std::int32_t> bytes(std::string_view text) { return ByteTokenizer().encode(text, {}); }

TEST_CASE("text comes with each token, the limit ends it", "[output_stream]") {
  const Fed fed = feed({}, bytes("abc"));
  CHECK(fed.pieces == std::vector<std::string>{"a", "b", "c"});
  CHECK(fed.reason == FinishReason::kLength);
  CHECK(fed.stop_reason.empty());
}

TEST_CASE("characters of several tokens come whole", "[output_stream]") {
  const Fed fed = feed({}, bytes("\xE2\x82\xAC!"));
  CHECK(fed.pieces == std::vector<std::string>{"", "", "\xE2\x82\xAC", "!"});
  // Cut off inside a character.
  CHECK(feed({}, bytes("a\xE2\x82")).text == "a\xEF\xBF\xBD");
  CHECK(feed({}, bytes("a\xE2\x82"), false).text == "a\xEF\xBF\xBD");
}

TEST_CASE("end-of-sequence and stop tokens end the output without text", "[output_stream]") {
  std::vector<std::int32_t> ids = bytes("ab");
  ids.push_back(ByteTokenizer::kEos);
  ids.push_back('c');
  Fed fed = feed({}, ids);
  CHECK(fed.text == "ab");
  CHECK(fed.num_tokens == 3);
  CHECK(fed.reason == FinishReason::kStop);
  CHECK(fed.stop_reason == "<256>");
  SamplingParams params;
  params.ignore_eos = true;
  CHECK(feed(params, ids).text == "abc");
  params = {};
  params.stop_token_ids = {'b'};
  fed = feed(params, ids);
  CHECK(fed.text == "a");
  CHECK(fed.num_tokens == 2);
  CHECK(fed.reason == FinishReason::kStop);
}

TEST_CASE("stop strings over tokens and characters", "[output_stream]") {
  SamplingParams params;
  params.stop = {"xyz", "\xE2\x82\xAC"};
  Fed fed = feed(params, bytes("abxyxyzcd"));
  CHECK(fed.text == "abxy");
  CHECK(fed.reason == FinishReason::kStop);
  CHECK(fed.stop_reason == "xyz");
  fed = feed(params, bytes("1\xE2\x82\xAC"
                           "2"));
  CHECK(fed.text == "1");
  CHECK(fed.num_tokens == 4);
  params.include_stop_str_in_output = true;
  CHECK(feed(params, bytes("abxyzcd")).text == "abxyz");
  // Held back until the end shows that it is none.
  fed = feed(params, bytes("abxy"));
  CHECK(fed.pieces == std::vector<std::string>{"a", "b", "", "xy"});
  CHECK(fed.reason == FinishReason::kLength);
  // A stop token while text is held back.
  std::vector<std::int32_t> ids = bytes("ax");
  ids.push_back(ByteTokenizer::kEos);
  CHECK(feed(params, ids).text == "ax");
}

TEST_CASE("nothing ends the output before min_tokens", "[output_stream]") {
  SamplingParams params;
  params.min_tokens = 3;
  params.stop = {"ab"};
  Fed fed = feed(params, bytes("abcabd"));
  CHECK(fed.text == "abc");
  CHECK(fed.num_tokens == 5);
  params.stop = {"bcd"};
  CHECK(feed(params, bytes("abcd")).text == "a");
}

TEST_CASE("tokens beyond the tokenizer have no text", "[output_stream]") {
  CHECK(feed({}, {'a', 5000, 'b'}).text == "ab");
}

}  // namespace
}  // namespace moba
