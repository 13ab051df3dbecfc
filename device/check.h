// The engine's one exception type and the check that throws it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace moba {

// What the engine throws inside: one line that names the file, key, tensor or argument and the
// numbers. The public face turns it into a Status.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The arguments written one after the other, as operator<< prints them.
template <typename... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace moba

// Throws moba::Error with the concatenated message unless `condition` holds. Always on: for
// conditions that input or a caller can break. The message is built only on failure.
#define MOBA_CHECK(condition, ...)                      \
  do {                                                  \
    if (!(condition)) [[unlikely]] {                    \
      throw ::moba::Error(::moba::concat(__VA_ARGS__)); \
    }                                                   \
  } while (false)
