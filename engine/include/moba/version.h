// The version of the library that runs.
#pragma once

#include "moba/export.h"

namespace moba {

// "0.1.0". Static storage.
MOBA_API const char* version();

}  // namespace moba
