// Configuration files: JSON objects of settings.
#pragma once

#include <string>
#include <vector>

#include "tools/moba/settings.h"

namespace moba::cli {

// The settings of a file ("-": standard input) in its order, as the library reads them
// (moba::Configuration). Throws CommandError naming file and key.
std::vector<SettingValue> load_config_file(const std::string& path);

}  // namespace moba::cli
