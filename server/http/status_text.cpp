#include "server/http/status_text.h"

#include <algorithm>
#include <array>
#include <boost/beast/http/status.hpp>

namespace moba::server {

std::string_view status_text(int status) {
  const auto text = boost::beast::http::obsolete_reason(
      boost::beast::http::int_to_status(static_cast<unsigned>(status)));
  return {text.data(), text.size()};
}

std::string_view known_method(std::string_view method) {
  constexpr std::array<std::string_view, 7> kMethods = {"GET",    "POST",  "HEAD", "OPTIONS",
                                                        "DELETE", "PATCH", "PUT"};
  const auto it = std::find(kMethods.begin(), kMethods.end(), method);
  return it == kMethods.end() ? "other" : *it;
}

}  // namespace moba::server
