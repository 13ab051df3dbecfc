#include "tokenizer/unicode_normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "tokenizer/utf8.h"

namespace moba {

namespace {

// Stable sort of every run of non-starters by canonical combining class. utf8proc's own
// (utf8proc_decompose) is quadratic in the length of a run, which would let a text of combining
// marks hang the tokenizer.
void order_canonically(std::vector<utf8proc_int32_t>& points) {
  const auto combining_class = [](utf8proc_int32_t point) {
    return utf8proc_get_property(point)->combining_class;
  };
  auto begin = points.begin();
  while (begin != points.end()) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(
        begin, points.end(), [&](utf8proc_int32_t point) { return combining_class(point) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

// Normalises one stretch and appends it to `out`.
void append_normalized(std::string_view text, NormalForm form, std::string& out) {
  int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;

  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  int boundary_class = 0;
  while (!text.empty()) {
    const utf8::Decoded next = utf8::decode(text);
    text.remove_prefix(static_cast<std::size_t>(next.length));
    // The longest decomposition of a code point (U+FDFA under NFKD) has 18.
    constexpr utf8proc_ssize_t kMaxDecomposition = 32;
    utf8proc_int32_t parts[kMaxDecomposition];
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(next.code_point), parts, kMaxDecomposition,
        static_cast<utf8proc_option_t>(options), &boundary_class);
    if (count < 0 || count > kMaxDecomposition) {
      throw std::runtime_error(std::string("utf8proc cannot decompose a code point: ") +
                               utf8proc_errmsg(count));
    }
    points.insert(points.end(), parts, parts + count);
  }
  order_canonically(points);
  if (compose) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        points.data(), static_cast<utf8proc_ssize_t>(points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (count < 0) {
      throw std::runtime_error(std::string("utf8proc cannot compose: ") + utf8proc_errmsg(count));
    }
    points.resize(static_cast<std::size_t>(count));
  }
  for (const utf8proc_int32_t point : points) utf8::append(out, static_cast<char32_t>(point));
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

}  // namespace

std::string to_normal_form(std::string_view text, NormalForm form) {
  // ASCII characters stay as they are in every form and no composition reaches across one from the
  // left, so a stretch that needs work begins at the ASCII character before a non-ASCII one (it may
  // compose with what follows) and ends before the next one.
  std::string out;
  out.reserve(text.size());
  std::size_t begin = 0;
  while (begin < text.size()) {
    const auto* wide = std::find_if_not(text.begin() + begin, text.end(), is_ascii);
    std::size_t plain_end = static_cast<std::size_t>(wide - text.begin());
    if (plain_end < text.size() && plain_end > begin) --plain_end;
    out.append(text.substr(begin, plain_end - begin));
    if (plain_end == text.size()) break;
    const auto* narrow = std::find_if(wide, text.end(), is_ascii);
    const auto end = static_cast<std::size_t>(narrow - text.begin());
    append_normalized(text.substr(plain_end, end - plain_end), form, out);
    begin = end;
  }
  return out;
}

}  // namespace moba
