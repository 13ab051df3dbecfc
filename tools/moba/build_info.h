// What a benchmark says of the program that made it.
#pragma once

namespace moba::cli {

// The commit that the program was built from, as it was when the build was configured (or what the
// build was told with MOBA_COMMIT); "unknown" outside a repository.
const char* build_commit();

}  // namespace moba::cli
