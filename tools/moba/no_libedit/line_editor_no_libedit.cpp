#include "tools/moba/line_editor.h"

namespace moba::cli {

std::unique_ptr<LineEditor> make_line_editor() { return make_plain_line_editor(); }

}  // namespace moba::cli
