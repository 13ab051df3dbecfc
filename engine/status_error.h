// Errors of the engine floor that know which status the public face reports.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "device/check.h"
#include "moba/status.h"

namespace moba {

// An Error with the code it becomes at the public face; plain Errors become what the phase they
// were thrown in says (see with_code).
class StatusError : public Error {
 public:
  StatusError(StatusCode code, const std::string& message) : Error(message), code_(code) {}
  StatusCode code() const { return code_; }

 private:
  StatusCode code_;
};

// An error of the engine's own work, not of what it was asked.
inline Status error_status(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return Status(StatusCode::kResourceExhausted, "out of memory in a step");
  }
  return Status(StatusCode::kInternal, error.what());
}

// Runs `body`; a plain Error leaves as a StatusError with `code`, other exceptions as they are.
template <typename Body>
auto with_code(StatusCode code, Body&& body) -> decltype(std::forward<Body>(body)()) {
  try {
    return std::forward<Body>(body)();
  } catch (const StatusError&) {
    throw;
  } catch (const Error& error) {
    throw StatusError(code, error.what());
  }
}

// Runs `body`; what it throws as a status: StatusErrors with their own code, others with `code`.
template <typename Body>
Status status_of(StatusCode code, Body&& body) {
  try {
    std::forward<Body>(body)();
    return {};
  } catch (const StatusError& error) {
    return Status(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(code, error.what());
  }
}

}  // namespace moba
