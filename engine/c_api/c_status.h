// How the functions of the C interface report failure.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "engine/status_error.h"
#include "moba/moba.h"
#include "moba/status.h"

namespace moba::c_api {

moba_status to_c(StatusCode code);

// Makes `message` the thread's last error and returns `code`. Throws nothing.
moba_status fail(moba_status code, std::string_view message) noexcept;
inline moba_status fail(const Status& status) noexcept {
  return fail(to_c(status.code()), status.message());
}
// MOBA_OK, or the failure.
inline moba_status to_c(const Status& status) noexcept {
  return status.ok() ? MOBA_OK : fail(status);
}

// The failure that the exception being handled stands for.
moba_status fail_with_current_exception() noexcept;

// Runs the body of a function of the interface, which returns moba_status; exceptions end here.
template <typename Body>
moba_status guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return fail_with_current_exception();
  }
}

// Throws StatusError naming the argument if it is null.
template <typename T>
void require(const T* argument, std::string_view name) {
  if (argument == nullptr) {
    throw StatusError(StatusCode::kInvalidArgument, std::string(name) + " is null");
  }
}

// A text argument and its length, which may be MOBA_STRLEN.
std::string_view text_of(const char* text, size_t length, std::string_view name);

// Copies for the caller, who gives them back to moba_free(). Throw std::bad_alloc.
char* copy_text(std::string_view text);
int32_t* copy_ids(const int32_t* ids, size_t num_ids);

// Throws StatusError if the struct_size of a caller's struct cannot be.
void check_struct_size(size_t struct_size, std::string_view name);

// As much of a caller's struct as the caller knows of, the rest zero. Throws StatusError if its
// struct_size cannot be.
template <typename T>
T read_struct(const T* from, std::string_view name) {
  check_struct_size(from->struct_size, name);
  T value{};
  std::memcpy(&value, from, std::min(from->struct_size, sizeof(T)));
  return value;
}

// Writes as much of `value` as the caller's struct has room for. Throws StatusError if its
// struct_size cannot be.
template <typename T>
void write_struct(T value, T* out, std::string_view name) {
  require(out, name);
  check_struct_size(out->struct_size, name);
  value.struct_size = out->struct_size;
  auto* bytes = reinterpret_cast<unsigned char*>(out);
  const auto* from = reinterpret_cast<const unsigned char*>(&value);
  for (size_t i = 0; i < out->struct_size; ++i) bytes[i] = i < sizeof(T) ? from[i] : 0;
}

}  // namespace moba::c_api
