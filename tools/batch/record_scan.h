// Looks at one line of a batch file without building it up in memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moba::batch {

// What identifies a line of the input, the output or the error file.
struct RecordHead {
  std::optional<std::string> id;         // a string at the top level
  std::optional<std::string> custom_id;  // a string at the top level, not empty
  std::string error_code;                // "error": {"code", "line"}
  std::int64_t error_line = 0;
};

// Reads the whole text as JSON. Absent if it is not a JSON object nested at most 64 deep.
std::optional<RecordHead> scan_record(std::string_view text);

}  // namespace moba::batch
