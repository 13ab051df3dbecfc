// The engine's log.
#pragma once

#include <spdlog/logger.h>

#include <memory>

namespace moba {

// The program's logger "moba" if it has registered one, else one that writes to standard error.
// Nothing of spdlog's global settings changes but that a logger of this name is registered.
std::shared_ptr<spdlog::logger> engine_logger();

}  // namespace moba
