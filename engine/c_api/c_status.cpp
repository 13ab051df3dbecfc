#include "engine/c_api/c_status.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

namespace moba::c_api {
namespace {

// The last error of a thread; `fixed` stands in for a text that there was no memory for.
struct LastError {
  std::string text;
  const char* fixed = nullptr;
};
thread_local LastError last_error;

// A struct_size over this was never set.
constexpr size_t kMaxStructSize = 4096;

}  // namespace

moba_status to_c(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return MOBA_OK;
    case StatusCode::kInvalidArgument:
      return MOBA_INVALID_ARGUMENT;
    case StatusCode::kInvalidCheckpoint:
      return MOBA_INVALID_CHECKPOINT;
    case StatusCode::kResourceExhausted:
      return MOBA_RESOURCE_EXHAUSTED;
    case StatusCode::kCancelled:
      return MOBA_CANCELLED;
    case StatusCode::kInternal:
      break;
  }
  return MOBA_INTERNAL;
}

moba_status fail(moba_status code, std::string_view message) noexcept {
  try {
    last_error.text = message;
    last_error.fixed = nullptr;
  } catch (const std::bad_alloc&) {
    last_error.fixed = "out of memory";
  }
  return code;
}

moba_status fail_with_current_exception() noexcept {
  try {
    throw;
  } catch (const StatusError& error) {
    return fail(to_c(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(MOBA_RESOURCE_EXHAUSTED, "out of memory");
  } catch (const Error& error) {
    return fail(MOBA_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return fail(MOBA_INTERNAL, error.what());
  } catch (...) {
    return fail(MOBA_INTERNAL, "something was thrown that is no exception");
  }
}

void check_struct_size(size_t struct_size, std::string_view name) {
  if (struct_size >= 2 * sizeof(size_t) && struct_size <= kMaxStructSize) return;
  throw StatusError(StatusCode::kInvalidArgument,
                    std::string(name) + "->struct_size is " + std::to_string(struct_size) +
                        ": begin with what its _init() function returns");
}

std::string_view text_of(const char* text, size_t length, std::string_view name) {
  if (text == nullptr && length == 0) return {};
  require(text, name);
  return length == MOBA_STRLEN ? std::string_view(text) : std::string_view(text, length);
}

char* copy_text(std::string_view text) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

int32_t* copy_ids(const int32_t* ids, size_t num_ids) {
  auto* copy = static_cast<int32_t*>(std::malloc((num_ids + 1) * sizeof(int32_t)));
  if (copy == nullptr) throw std::bad_alloc();
  if (num_ids > 0) std::memcpy(copy, ids, num_ids * sizeof(int32_t));
  return copy;
}

}  // namespace moba::c_api

const char* moba_last_error(void) {
  const auto& error = moba::c_api::last_error;
  return error.fixed != nullptr ? error.fixed : error.text.c_str();
}

void moba_free(void* memory) { std::free(memory); }
