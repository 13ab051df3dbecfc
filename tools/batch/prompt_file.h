// Documents on disk that requests name.
#pragma once

#include <filesystem>
#include <string>

namespace moba::batch {

// The text of a regular file of at most kMaxLineBytes, without one newline at its end; a relative
// path starts in `folder`. Throws openai::ApiError (400, prompt_file).
std::string read_prompt_file(const std::filesystem::path& folder, const std::string& path);

}  // namespace moba::batch
