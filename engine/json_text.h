// JSON text to a value, strictly.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moba {

// Throws Error "SOURCE: ..." for what is not JSON (naming the line), holds a zero byte, is nested
// deeper than 64, or has a key twice in one object. // comments are allowed. The order of keys is
// kept.
nlohmann::ordered_json parse_json_text(std::string_view text, const std::string& source);

}  // namespace moba
