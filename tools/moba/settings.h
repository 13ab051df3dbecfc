// The settings of the engine and of sampling that have flags, and their help. What
// they mean and how files hold them is the library's (moba/settings.h).
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moba/config.h"
#include "moba/sampling_params.h"
#include "tools/moba/output.h"

namespace moba::cli {

// What configuration files and flags set.
struct Settings {
  EngineConfig engine;
  SamplingParams sampling;
};

// How a setting's value is written on the command line.
enum class ValueKind {
  kInteger,
  kNumber,
  kString,
  kBool,       // a flag
  kSize,       // bytes, with suffixes
  kStrings,    // repeatable
  kIntegers,   // repeatable, or separated by commas
  kLogitBias,  // repeatable
};

// Which command takes the setting as a flag. Files may hold all of them.
enum class SettingScope { kModel, kEngine, kServing, kServer, kAttention, kSampling };

struct Setting {
  std::string_view key;    // the library's
  std::string_view flags;  // as CLI11 writes them
  std::string_view value;  // the value's name in the help
  std::string_view help;
  SettingScope scope;
  std::string_view group;  // of the help
  ValueKind kind;
};

// In the order of the help. Files may hold settings without a flag.
std::span<const Setting> all_settings();

// The JSON value that texts of the command line stand for. Throws std::invalid_argument.
nlohmann::json value_from_texts(ValueKind kind, const std::vector<std::string>& texts);

// A value for a setting, and where it was given ("--top-k", or a file and its key) for messages.
struct SettingValue {
  std::string key;
  nlohmann::json value;
  std::string origin;
  bool from_command_line = false;
};

// Checks all values and puts those of sampling (or all the others) into `settings`, in order.
// Throws UsageError for values of the command line and CommandError for those of files, naming the
// origin.
void apply_settings(const std::vector<SettingValue>& values, bool sampling, Settings& settings);

// The settings as a configuration file that gives them again.
OrderedJson settings_json(const Settings& settings);

}  // namespace moba::cli
