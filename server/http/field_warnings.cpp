#include "server/http/field_warnings.h"

#include <spdlog/spdlog.h>

#include "server/openai/api_error.h"

namespace moba::server {
namespace {
constexpr std::size_t kMaxWarnings = 32;
}

void FieldWarnings::warn(const std::vector<std::string>& names) {
  const std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    if (warned_.size() >= kMaxWarnings || !warned_.insert(name).second) continue;
    spdlog::warn("serve: the field {} is unknown and ignored, in this request and in others",
                 openai::in_quotes(name));
  }
}

}  // namespace moba::server
