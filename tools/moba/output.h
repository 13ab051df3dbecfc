// Standard output, and numbers as people read them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moba::cli {

// Keeps its keys in the order they were set.
using OrderedJson = nlohmann::ordered_json;

// Writes all bytes to standard output at once, past any buffer. Throws OutputError.
void write_stdout(std::string_view bytes);

// One JSON value on one line. Bytes that are not UTF-8 become U+FFFD, numbers that are not finite
// become null. Throws OutputError.
void write_json(const OrderedJson& json);

// "16,384".
std::string with_commas(std::int64_t value);
// "37.8 MiB".
std::string human_bytes(std::int64_t bytes);
// "18.9M".
std::string human_count(std::int64_t count);
// "0-7,9" for ascending numbers.
std::string ranges(const std::vector<int>& values);
// "MoBA in layers 0-7 (block 64, top-k 8), full attention in layers 8-9".
std::string describe_attention(const std::vector<int>& layer_topk, int moba_block_size);
// The same for machines: {"moba_block_size", "layers": ["moba", ...], "layer_topk": [...]}.
OrderedJson attention_json(const std::vector<int>& layer_topk, int moba_block_size);

// a / b, or 0 where b is not positive.
double ratio(double a, double b);

// The largest resident set of this process so far, in bytes (0 where the system does not say).
std::int64_t peak_memory_bytes();

}  // namespace moba::cli
