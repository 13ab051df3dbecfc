// Where the library's log goes. One log for the process.
#pragma once

#include <functional>
#include <string_view>

#include "moba/export.h"

namespace moba {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3, kOff = 4 };

// One line without its end. Called from any thread, one call at a time; must not call the library.
using LogHandler = std::function<void(LogLevel level, std::string_view message)>;

// Lines below that level are dropped. Unless told otherwise: kWarning.
MOBA_API void set_log_level(LogLevel level);

// Sends the log to `handler`; an empty one sends it to standard error again, where it goes at
// first. The level stays. Engines that exist go on with the handler of their time of creation for
// what they are just writing.
MOBA_API void set_log_handler(LogHandler handler);

}  // namespace moba
