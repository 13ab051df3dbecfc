// Reads numbers, sizes, token ids and logit biases from text. Every function throws
// std::invalid_argument with what it expected and what it got; the caller names the flag or file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moba::cli {

std::int64_t parse_integer(std::string_view text);

// A finite number.
double parse_number(std::string_view text);

// "true", "false", "1", "0", "on", "off", "yes", "no".
bool parse_bool(std::string_view text);

// A number of bytes: "1000", "512M", "1.5GiB". As in coreutils K, M, G and T, with or without iB,
// are powers of 1024, and KB, MB, GB and TB powers of 1000; letter case does not matter.
std::int64_t parse_size(std::string_view text);

// "ID:BIAS", or "ID+BIAS" and "ID-BIAS". BIAS may be "inf" or "-inf".
std::pair<std::int32_t, float> parse_logit_bias(std::string_view text);

// Token ids: a JSON array of integers, or integers separated by white space. May be empty.
std::vector<std::int32_t> parse_token_ids(std::string_view text);

// `text` in double quotes for a message: control characters escaped, shortened after 60 characters.
std::string in_quotes(std::string_view text);

}  // namespace moba::cli
