#include "moba/version.h"

namespace moba {

const char* version() { return MOBA_VERSION; }

}  // namespace moba
