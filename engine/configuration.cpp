#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "engine/json_text.h"
#include "engine/json_values.h"
#include "engine/setting_table.h"
#include "engine/status_error.h"
#include "moba/settings.h"

namespace moba {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
constexpr std::string_view kDescription = "description";

template <typename Body>
Status checked(Body&& body) {
  return status_of(StatusCode::kInvalidArgument, std::forward<Body>(body));
}

bool is_section(std::string_view key) {
  const auto rows = setting_rows();
  return std::any_of(rows.begin(), rows.end(), [&](const SettingRow& row) {
    return !row.section.empty() && row.section == key;
  });
}

// The value of a setting once it is known to have the right type. Throws Error.
SettingValue make_value(std::string_view section, std::string_view key, const Json& value,
                        const std::string& source, const std::string& origin) {
  const std::string shown = section.empty() ? std::string(key) : concat(section, '.', key);
  const SettingRow* row = find_setting_row(section, key);
  if (row == nullptr) {
    const std::string prefix = source.empty() ? "" : source + ": ";
    throw Error(prefix + "unknown key " + json_values::shown_text(shown) + suggest_setting(key));
  }
  SettingValue result;
  result.key = row->key;
  result.is_text = value.is_string();
  result.value = result.is_text ? value.get<std::string>() : value.dump();
  result.origin = !origin.empty() ? origin : source.empty() ? shown : source + ": " + shown;
  result.sampling = row->sampling;
  SettingTargets scratch;
  try {
    row->set(scratch, value);
  } catch (const Error& error) {
    throw Error(result.origin + ": " + error.what());
  }
  return result;
}

// `name`: a key, or "section.key".
SettingValue make_named_value(std::string_view name, const Json& value, const std::string& origin) {
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return make_value("", name, value, "", origin);
  return make_value(name.substr(0, dot), name.substr(dot + 1), value, "", origin);
}

std::vector<SettingValue> read_values(std::string_view text, const std::string& source) {
  MOBA_CHECK(text.size() <= kMaxConfigBytes, source, ": ", text.size(), " bytes, more than the ",
             kMaxConfigBytes, " allowed");
  const OrderedJson json = parse_json_text(text, source);
  if (!json.is_object()) throw Error(source + ": expected a JSON object of settings");
  std::vector<SettingValue> values;
  const auto add = [&](std::string_view section, const std::string& key, const OrderedJson& value) {
    SettingValue next = make_value(section, key, Json(value), source, "");
    const bool again = std::any_of(values.begin(), values.end(), [&](const SettingValue& other) {
      return other.key == next.key;
    });
    MOBA_CHECK(!again, source, ": ", next.key, " is given twice");
    values.push_back(std::move(next));
  };
  for (const auto& [key, value] : json.items()) {
    if (key == kDescription && value.is_string()) continue;
    if (is_section(key) && value.is_object()) {
      for (const auto& [inner, inner_value] : value.items()) add(key, inner, inner_value);
    } else {
      add("", key, value);
    }
  }
  return values;
}

std::string read_file(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (file) {
    text.resize(kMaxConfigBytes + 1);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
  }
  if (!file.eof() && !file.good()) {
    throw Error(path + ": " + (errno != 0 ? std::strerror(errno) : "cannot be read"));
  }
  return text;
}

void apply(const std::vector<SettingValue>& values, bool sampling, SettingTargets& targets) {
  for (const SettingValue& value : values) {
    if (value.sampling != sampling) continue;
    find_setting_row("", value.key)
        ->set(targets, value.is_text ? Json(value.value) : Json::parse(value.value));
  }
}

std::string write(const SettingTargets& targets, bool sampling) {
  OrderedJson json = OrderedJson::object();
  for (const SettingRow& row : setting_rows()) {
    if (row.sampling == sampling) json[std::string(row.key)] = row.get(targets);
  }
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace

Status Configuration::add_json(std::string_view json, const std::string& source) {
  return checked([&] {
    std::vector<SettingValue> values = read_values(json, source);
    values_.insert(values_.end(), std::make_move_iterator(values.begin()),
                   std::make_move_iterator(values.end()));
  });
}

Status Configuration::add_file(const std::string& path) {
  std::string text;
  const Status read = checked([&] { text = read_file(path); });
  return read.ok() ? add_json(text, path) : read;
}

Status Configuration::set(std::string_view key, std::string_view json, const std::string& origin) {
  return checked([&] {
    const Json value(parse_json_text(json, origin.empty() ? std::string(key) : origin));
    values_.push_back(make_named_value(key, value, origin));
  });
}

Status Configuration::set_text(std::string_view key, std::string_view text,
                               const std::string& origin) {
  return checked([&] { values_.push_back(make_named_value(key, Json(text), origin)); });
}

EngineConfig Configuration::engine(EngineConfig base) const {
  SettingTargets targets;
  targets.engine = std::move(base);
  apply(values_, /*sampling=*/false, targets);
  return std::move(targets.engine);
}

SamplingParams Configuration::sampling(SamplingParams base) const {
  SettingTargets targets;
  targets.sampling = std::move(base);
  apply(values_, /*sampling=*/true, targets);
  return std::move(targets.sampling);
}

std::string to_json(const EngineConfig& config) {
  SettingTargets targets;
  targets.engine = config;
  return write(targets, /*sampling=*/false);
}

std::string to_json(const SamplingParams& params) {
  SettingTargets targets;
  targets.sampling = params;
  return write(targets, /*sampling=*/true);
}

}  // namespace moba
