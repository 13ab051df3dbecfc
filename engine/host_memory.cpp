#include "engine/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace moba {
namespace {

constexpr std::int64_t kUnknown = std::numeric_limits<std::int64_t>::max() / 4;

// The number a file holds; nothing if it does not begin with one ("max") or cannot be read.
std::optional<std::int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (!(file >> value) || value < 0) return std::nullopt;
  return value;
}

// The value of a "key value" or "key: value kB" line.
std::optional<std::int64_t> read_field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, key.size(), key) != 0) continue;
    std::istringstream rest(line.substr(key.size()));
    std::int64_t value = 0;
    if (rest >> value) return value;
  }
  return std::nullopt;
}

std::int64_t system_available() {
  const auto kib = read_field("/proc/meminfo", "MemAvailable:");
  return kib ? std::min(*kib, kUnknown / 1024) * 1024 : kUnknown;
}

// What a group with that limit and use can still take; its inactive file pages can be dropped.
std::int64_t group_available(const std::string& dir, const char* limit_file, const char* use_file,
                             const char* inactive_key) {
  const auto limit = read_number(dir + limit_file);
  const auto use = read_number(dir + use_file);
  if (!limit || !use) return kUnknown;
  const std::int64_t inactive = read_field(dir + "/memory.stat", inactive_key).value_or(0);
  return std::max<std::int64_t>(0, *limit - *use + inactive);
}

std::int64_t cgroup_available() {
  std::int64_t available = kUnknown;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    // Every group up to the root may set a limit.
    for (;;) {
      available = std::min(
          available, unified
                         ? group_available("/sys/fs/cgroup" + path, "/memory.max",
                                           "/memory.current", "inactive_file ")
                         : group_available("/sys/fs/cgroup/memory" + path, "/memory.limit_in_bytes",
                                           "/memory.usage_in_bytes", "total_inactive_file "));
      if (path.empty() || path == "/") break;
      path.erase(path.rfind('/'));
    }
  }
  return available;
}

}  // namespace

std::int64_t available_host_memory() { return std::min(system_available(), cgroup_available()); }

}  // namespace moba
