#include "tools/moba/parse.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "tests/catch.h"

namespace moba::cli {
namespace {

using Ids = std::vector<std::int32_t>;

TEST_CASE("sizes take the suffixes of coreutils in any case") {
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("1000") == 1000);
  CHECK(parse_size("7B") == 7);
  CHECK(parse_size("4k") == 4096);
  CHECK(parse_size("512M") == 512LL << 20);
  CHECK(parse_size("512MiB") == 512LL << 20);
  CHECK(parse_size("512MB") == 512'000'000);
  CHECK(parse_size("2G") == 2LL << 30);
  CHECK(parse_size("1.5GiB") == 3LL << 29);
  CHECK(parse_size("1.5 gib") == 3LL << 29);
  CHECK(parse_size("1T") == 1LL << 40);
}

TEST_CASE("sizes that are none are refused") {
  for (const char* text : {"", "M", "-1", "-1M", "1X", "1MM", "1 2", "1e3", "nan", "inf", "0x10",
                           "1.2.3", "512 MiBs", "9999999T", "1  M"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_size(text), std::invalid_argument);
  }
}

TEST_CASE("integers and numbers are read whole or refused") {
  CHECK(parse_integer("-3") == -3);
  CHECK(parse_integer("+3") == 3);
  CHECK(parse_number("0.25") == 0.25);
  CHECK(parse_number("-1e-3") == -1e-3);
  for (const char* text : {"", " 1", "1 ", "1.5", "1k", "abc", "9223372036854775808"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_integer(text), std::invalid_argument);
  }
  for (const char* text : {"", " 1", "1 ", "nan", "-nan", "inf", "-inf", "1e999", "0.5x"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_number(text), std::invalid_argument);
  }
}

TEST_CASE("logit biases come as ID:BIAS and in llama.cpp's spelling") {
  CHECK(parse_logit_bias("15043:-1.5") == std::pair(15043, -1.5F));
  CHECK(parse_logit_bias("15043+1") == std::pair(15043, 1.0F));
  CHECK(parse_logit_bias("15043-1") == std::pair(15043, -1.0F));
  CHECK(parse_logit_bias("2:-inf") == std::pair(2, -std::numeric_limits<float>::infinity()));
  for (const char* text :
       {"", "5", ":1", "a:1", "5:", "5:x", "5:nan", "-5:1", "99999999999:1", "5=1", "5:1 "}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_logit_bias(text), std::invalid_argument);
  }
}

TEST_CASE("token ids are a JSON array or words") {
  CHECK(parse_token_ids("") == Ids{});
  CHECK(parse_token_ids(" \n\t ") == Ids{});
  CHECK(parse_token_ids("[]") == Ids{});
  CHECK(parse_token_ids("1 414\n401\t369 \n") == Ids{1, 414, 401, 369});
  CHECK(parse_token_ids(" [1, 414,401]\n") == Ids{1, 414, 401});
  CHECK(parse_token_ids("2147483647") == Ids{2147483647});
}

TEST_CASE("token ids that are none are refused with their place") {
  const auto message = [](const std::string& text) {
    try {
      parse_token_ids(text);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(message("1 x 3") == "item 2: expected a token id, got \"x\"");
  CHECK(message("1,2") == "item 1: expected a token id, got \"1,2\"");
  CHECK(message("1 -2") == "item 2: token id -2 is out of range");
  CHECK(message("1 2147483648") == "item 2: token id 2147483648 is out of range");
  CHECK(message("[1, -2]") == "item 2: token id -2 is out of range");
  CHECK(message("[1, 18446744073709551615]") ==
        "item 2: token id 18446744073709551615 is out of range");
  CHECK(message("[1, \"2\"]") == "item 2: expected a token id, got a JSON string");
  CHECK(message("[1, 2.0]") == "item 2: expected a token id, got a JSON number");
  CHECK(message("[1, 2") == "expected a JSON array of token ids");
  CHECK(message(std::string(100000, '[')) == "expected a JSON array of token ids");
}

TEST_CASE("texts in messages stay on one short line") {
  CHECK(in_quotes("a\nb\tc\x01") == "\"a\\nb\\tc\\x01\"");
  CHECK(in_quotes(std::string(61, 'x')) == "\"" + std::string(60, 'x') + "...\"");
}

}  // namespace
}  // namespace moba::cli
