#include "tools/moba/build_info.h"

namespace moba::cli {

const char* build_commit() { return MOBA_COMMIT; }

}  // namespace moba::cli
