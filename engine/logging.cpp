#include "engine/logging.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace moba {

std::shared_ptr<spdlog::logger> engine_logger() {
  if (auto logger = spdlog::get("moba")) return logger;
  auto logger =
      std::make_shared<spdlog::logger>("moba", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  try {
    spdlog::register_logger(logger);
  } catch (const spdlog::spdlog_ex&) {
    // Another thread was first.
    if (auto registered = spdlog::get("moba")) return registered;
  }
  return logger;
}

}  // namespace moba
