// Unicode normal forms (UAX #15), through utf8proc.
#pragma once

#include <string>
#include <string_view>

namespace moba {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` (valid UTF-8) in a normal form. Time is n log n at worst, in the length of the longest run
// of combining marks.
std::string to_normal_form(std::string_view text, NormalForm form);

}  // namespace moba
