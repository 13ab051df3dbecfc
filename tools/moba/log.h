// The program's log: standard error, through spdlog's default logger.
#pragma once

namespace moba::cli {

enum class Verbosity { kQuiet, kNormal, kVerbose };

// Lines read "moba: ...", "moba: warning: ...", "moba: error: ...". kQuiet keeps errors only.
void set_up_log(Verbosity verbosity);

}  // namespace moba::cli
