// The fields of a request by name.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "moba/request.h"

namespace moba {

// As set_request_field() of moba/settings.h, from a value. Throws Error naming the key; the request
// is then as it was.
void assign_request_field(Request& request, std::string_view key, const nlohmann::json& value);

}  // namespace moba
