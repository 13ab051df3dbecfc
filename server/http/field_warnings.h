// One line in the log for each unknown field, not for each request that has it.
#pragma once

#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace moba::server {

// Thread-safe. After 32 names it is silent: names come from clients.
class FieldWarnings {
 public:
  void warn(const std::vector<std::string>& names);

 private:
  std::mutex mutex_;
  std::set<std::string> warned_;
};

}  // namespace moba::server
