// What the tests of moba batch share.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/tools/process.h"

namespace moba::test {

using Json = nlohmann::json;

// Writes a checkpoint with random weights, small enough to load in milliseconds, and the embedded
// model's tokenizer into a folder; returns its path. It has MoBA layers, and 4096 tokens of
// context.
std::string write_tiny_model(const TempDir& dir);

// A line of a batch: a completion of `prompt`, greedy, without an end token, with its token ids.
std::string completion_line(const std::string& custom_id, const std::string& prompt, int max_tokens,
                            const Json& more = Json::object());

// One value a line; fails the test for a line that is not JSON or a last one without an end.
std::vector<Json> read_jsonl(const std::string& path);

// The results by custom_id; fails the test if one stands there twice.
std::map<std::string, Json> by_custom_id(const std::vector<Json>& records);

// The output's ids: choices[0].token_ids.
Json output_ids(const Json& record);

// moba batch -m MODEL INPUT -o OUTPUT with more arguments.
std::vector<std::string> batch(const std::string& model, const std::string& input,
                               const std::string& output,
                               const std::vector<std::string>& more = {});

}  // namespace moba::test
