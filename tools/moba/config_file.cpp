#include "tools/moba/config_file.h"

#include "moba/settings.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"

namespace moba::cli {
namespace {

// One more than the library takes, so that it is the one to refuse.
constexpr std::int64_t kMaxConfigBytes = (std::int64_t{1} << 20) + 1;

}  // namespace

std::vector<SettingValue> load_config_file(const std::string& path) {
  Configuration configuration;
  const Status status = configuration.add_json(read_input(path, kMaxConfigBytes), path);
  if (!status.ok()) throw CommandError(status.message());
  std::vector<SettingValue> values;
  for (const moba::SettingValue& value : configuration.values()) {
    values.push_back(
        {value.key,
         value.is_text ? nlohmann::json(value.value) : nlohmann::json::parse(value.value),
         value.origin, false});
  }
  return values;
}

}  // namespace moba::cli
