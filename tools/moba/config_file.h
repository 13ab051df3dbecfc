// Configuration files: JSON objects of settings.
#pragma once

#include <string>
#include <vector>

#include "tools/moba/settings.h"

namespace moba::cli {

// The settings of a file in its order. A key stands at the top level, or in the object named after
// its section ("attention", "cache", "scheduler", "sampling"); the file may hold // comments and a
// "description". Throws CommandError naming file and key for a file that cannot be read or parsed,
// an unknown key, a key given twice, and a value of the wrong type.
std::vector<SettingValue> load_config_file(const std::string& path);

}  // namespace moba::cli
