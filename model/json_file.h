// Reads the JSON files of a checkpoint, which may come from anywhere.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moba {

// `text` in quotes for an error line: control characters become '?', and what exceeds 120 bytes is
// cut.
std::string in_quotes(std::string_view text);

// The JSON object in a file. Throws Error with one line naming the file if it is missing, over 32
// MB, not JSON, not an object, nested deeper than 64, or has the same key twice in one object.
nlohmann::json load_json_object(const std::filesystem::path& path);

}  // namespace moba
