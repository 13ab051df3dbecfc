// Whether the tests run under a sanitizer, which takes many times the time and memory.
#pragma once

namespace moba {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace moba
