#include "tools/batch/prompt_file.h"

#include <system_error>

#include "server/openai/api_error.h"
#include "tools/batch/line_reader.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"

namespace moba::batch {

std::string read_prompt_file(const std::filesystem::path& folder, const std::string& path) {
  constexpr const char* kField = "prompt_file";
  // A NUL would cut the name short on its way to the system.
  if (path.empty() || path.find('\0') != std::string::npos) {
    openai::refuse(kField, "prompt_file " + openai::in_quotes(path) + " is no name of a file");
  }
  const std::filesystem::path full = folder / path;
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(full, error);
  // Anything else might never end, or never begin.
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    openai::refuse(kField, "cannot read " + full.string() + ": it is no regular file");
  }
  std::string text;
  try {
    text = cli::read_input(full.string(), static_cast<std::int64_t>(kMaxLineBytes));
  } catch (const cli::CommandError& failure) {
    openai::refuse(kField, failure.what());
  }
  if (!text.empty() && text.back() == '\n') {
    text.pop_back();
    if (!text.empty() && text.back() == '\r') text.pop_back();
  }
  return text;
}

}  // namespace moba::batch
