// Shared by the tests of the engine folder.
#pragma once

#include <functional>
#include <string>

#include "device/check.h"
#include "tests/catch.h"

namespace moba {

#if __has_include(<catch2/catch_all.hpp>)
inline auto Contains(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }
#else
using Catch::Contains;
#endif

// The line of the Error that `f` throws, or "no error".
inline std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace moba
