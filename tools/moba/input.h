// Where prompts and token ids come from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moba/status.h"

namespace moba::cli {

// Files are read whole, but never more than this.
inline constexpr std::int64_t kMaxInputBytes = std::int64_t{1} << 30;

// The bytes of a file, or of standard input for "-". Throws CommandError naming the file.
std::string read_input(const std::string& path, std::int64_t max_bytes = kMaxInputBytes);

// Token ids from a file or "-" (parse_token_ids). Throws CommandError naming the file.
std::vector<std::int32_t> read_token_ids(const std::string& path);

// The three ways to hand in text; at most one is given.
struct TextSource {
  std::optional<std::string> text;      // -p
  std::optional<std::string> file;      // -f
  std::optional<std::string> ids_file;  // --prompt-ids
};

// Text or ids as the source has them; standard input if it names nothing.
struct InputText {
  std::string text;
  std::vector<std::int32_t> ids;
  bool is_ids = false;
  std::string name;  // for people: the file, or "standard input"
};
InputText read_source(const TextSource& source);

// The value, or CommandError with the status's message.
template <typename T>
T take(Result<T> result);

// CommandError with the status's message on one line.
[[noreturn]] void throw_status(const Status& status);

template <typename T>
T take(Result<T> result) {
  if (!result.ok()) throw_status(result.status());
  return std::move(result.value());
}

}  // namespace moba::cli
