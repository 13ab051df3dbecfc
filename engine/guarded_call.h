// Calls that must not throw.
#pragma once

#include <exception>
#include <string>

#include "device/check.h"

namespace moba {

// Runs a callback of the caller's; a text for the error it threw, empty if it threw none.
template <typename F>
std::string guarded(F&& call) {
  try {
    call();
    return {};
  } catch (const std::exception& error) {
    return concat("a callback threw: ", error.what());
  } catch (...) {
    return "a callback threw something that is no exception";
  }
}

}  // namespace moba
