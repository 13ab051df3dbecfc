// Names of HTTP's status codes and methods.
#pragma once

#include <string_view>

namespace moba::server {

std::string_view status_text(int status);

// The method if it is one of HTTP's usual ones, else "other": metrics have few labels.
std::string_view known_method(std::string_view method);

}  // namespace moba::server
