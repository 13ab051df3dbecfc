#include "tools/moba/config_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string_view>

#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMaxConfigBytes = std::int64_t{1} << 20;
constexpr std::string_view kDescription = "description";

// Refuses a key that stands twice in one object, which JSON leaves open.
class DuplicateKeys {
 public:
  explicit DuplicateKeys(const std::string& path) : path_(path) {}

  bool operator()(int /*depth*/, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_.emplace_back();
    if (event == Json::parse_event_t::object_end) open_.pop_back();
    if (event == Json::parse_event_t::key &&
        !open_.back().insert(parsed.get<std::string>()).second) {
      throw CommandError(path_ + ": key " + in_quotes(parsed.get<std::string>()) + " stands twice");
    }
    return true;
  }

 private:
  const std::string& path_;
  std::vector<std::set<std::string>> open_;
};

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({change, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

// ", did you mean ...?" if a key comes close.
std::string suggestion(std::string_view key) {
  constexpr std::size_t kMaxKey = 64;
  if (key.size() > kMaxKey) return "";
  const Setting* best = nullptr;
  std::size_t distance = 4;
  for (const Setting& setting : all_settings()) {
    const std::size_t d = edit_distance(key, setting.key);
    if (d < distance) {
      distance = d;
      best = &setting;
    }
  }
  return best == nullptr ? "" : ", did you mean \"" + std::string(best->key) + "\"?";
}

bool is_section(std::string_view key) {
  return std::any_of(all_settings().begin(), all_settings().end(), [&](const Setting& setting) {
    return !setting.section.empty() && setting.section == key;
  });
}

class Loader {
 public:
  explicit Loader(const std::string& path) : path_(path) {}

  void add(std::string_view section, const std::string& key, const Json& value) {
    const std::string shown = section.empty() ? key : std::string(section) + "." + key;
    const Setting* setting = find_setting(section, key);
    if (setting == nullptr) {
      throw CommandError(path_ + ": unknown key " + in_quotes(shown) + suggestion(key));
    }
    const bool again = std::any_of(values_.begin(), values_.end(),
                                   [&](const SettingValue& v) { return v.setting == setting; });
    if (again) throw CommandError(path_ + ": " + std::string(setting->key) + " is given twice");
    values_.push_back({setting, nlohmann::json(value), path_ + ": " + shown, false});
  }

  std::vector<SettingValue> take() { return std::move(values_); }

 private:
  const std::string& path_;
  std::vector<SettingValue> values_;
};

}  // namespace

std::vector<SettingValue> load_config_file(const std::string& path) {
  const std::string text = read_input(path, kMaxConfigBytes);
  Json json;
  try {
    json = Json::parse(text, DuplicateKeys(path), /*allow_exceptions=*/true,
                       /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    const std::size_t byte = std::min(error.byte, text.size());
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<long>(byte), '\n');
    throw CommandError(path + ": not JSON at line " + std::to_string(line));
  } catch (const Json::exception& error) {
    throw CommandError(path + ": not JSON: " + error.what());
  }
  if (!json.is_object()) throw CommandError(path + ": expected a JSON object of settings");
  Loader loader(path);
  for (const auto& [key, value] : json.items()) {
    if (key == kDescription && value.is_string()) continue;
    if (is_section(key) && value.is_object()) {
      for (const auto& [inner, inner_value] : value.items()) loader.add(key, inner, inner_value);
    } else {
      loader.add("", key, value);
    }
  }
  std::vector<SettingValue> values = loader.take();
  Settings scratch;
  apply_settings(values, /*sampling=*/false, scratch);
  apply_settings(values, /*sampling=*/true, scratch);
  return values;
}

}  // namespace moba::cli
