// Who may use the server.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moba::server {

// Keys as "Authorization: Bearer KEY", or as the password of "Authorization: Basic", which is what
// a browser sends. Immutable.
class ApiKeys {
 public:
  explicit ApiKeys(std::vector<std::string> keys) : keys_(std::move(keys)) {}

  bool required() const { return !keys_.empty(); }
  // Takes time that depends on the length of what was sent and on the keys' lengths, not on their
  // bytes.
  bool accepts(std::string_view authorization) const;

 private:
  std::vector<std::string> keys_;
};

}  // namespace moba::server
