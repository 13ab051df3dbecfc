// Every setting of EngineConfig and SamplingParams by name: where it may stand in a configuration,
// and how it is read and written. The one place that knows.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "moba/config.h"
#include "moba/sampling_params.h"

namespace moba {

struct SettingTargets {
  EngineConfig engine;
  SamplingParams sampling;
};

struct SettingRow {
  std::string_view key;
  std::string_view section;  // the object the key may also stand in; "" for none
  std::string_view alias;    // a second name of the key within its section; "" for none
  bool sampling;
  // Throws Error that says what was expected.
  void (*set)(SettingTargets& targets, const nlohmann::json& value);
  nlohmann::json (*get)(const SettingTargets& targets);
};

std::span<const SettingRow> setting_rows();

// The setting of a key within a section ("" for the top level), or null.
const SettingRow* find_setting_row(std::string_view section, std::string_view key);

// ", did you mean ...?" if one of the keys comes close, else "".
std::string suggest_key(std::string_view key, std::span<const std::string_view> keys);
std::string suggest_setting(std::string_view key);

}  // namespace moba
