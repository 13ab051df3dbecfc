// How much memory this process may still take.
#pragma once

#include <cstdint>

namespace moba {

// Bytes that the system can give without swapping, and that the process's control group (a
// container's limit) still allows: the smaller of the two. Pages of the file cache count as
// available. A large number if the system does not say.
std::int64_t available_host_memory();

}  // namespace moba
