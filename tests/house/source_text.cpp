#include "tests/house/source_text.h"

#include <array>
#include <cctype>

namespace moba::house {
namespace {

bool has_extension(std::string_view path, std::initializer_list<std::string_view> extensions) {
  for (std::string_view extension : extensions) {
    if (ends_with(path, extension)) return true;
  }
  return false;
}

// Blanks text[begin, end) but for line ends.
void blank(std::string& text, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end && i < text.size(); ++i) {
    if (text[i] != '\n') text[i] = ' ';
  }
}

// The index behind the literal that `quote` opens at `begin`; a line end closes a broken one.
std::size_t end_of_literal(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  std::size_t i = begin + 1;
  while (i < text.size() && text[i] != quote && text[i] != '\n') i += text[i] == '\\' ? 2 : 1;
  return i + 1;
}

// The index behind the raw string whose quote stands at `begin`.
std::size_t end_of_raw_string(std::string_view text, std::size_t begin) {
  const std::size_t open = text.find('(', begin);
  if (open == std::string_view::npos) return text.size();
  std::string close(text.substr(begin, open - begin));
  close[0] = ')';
  close += '"';
  const std::size_t end = text.find(close, open);
  return end == std::string_view::npos ? text.size() : end + close.size();
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Comments as spaces; string and character literals too if `literals`.
std::string blanked(std::string_view source, bool literals) {
  std::string text(source);
  std::size_t i = 0;
  while (i < source.size()) {
    std::size_t end = i + 1;
    if (source.substr(i, 2) == "//") {
      end = source.find('\n', i);
      blank(text, i, end);
    } else if (source.substr(i, 2) == "/*") {
      end = source.find("*/", i + 2);
      end = end == std::string_view::npos ? end : end + 2;
      blank(text, i, end);
    } else if (source[i] == '"') {
      const bool raw = i > 0 && source[i - 1] == 'R';
      end = raw ? end_of_raw_string(source, i) : end_of_literal(source, i);
      if (literals) blank(text, i + 1, end - 1);
    } else if (source[i] == '\'' && (i == 0 || !is_word(source[i - 1]))) {  // not 1'000
      end = end_of_literal(source, i);
      if (literals) blank(text, i + 1, end - 1);
    }
    i = end;
  }
  return text;
}

}  // namespace

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_header(std::string_view path) { return has_extension(path, {".h", ".hpp", ".cuh"}); }

bool is_source(std::string_view path) {
  return has_extension(path, {".cpp", ".cc", ".cxx", ".c", ".cu"});
}

bool is_cmake_list(std::string_view path) {
  return path == "CMakeLists.txt" || ends_with(path, "/CMakeLists.txt");
}

bool is_page(std::string_view path) { return ends_with(path, ".md"); }

std::vector<std::string> folders_of(std::string_view path) {
  std::vector<std::string> folders;
  std::size_t begin = 0;
  for (std::size_t end = path.find('/'); end != std::string_view::npos;
       end = path.find('/', begin)) {
    folders.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return folders;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) end = text.size();
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

std::string without_comments_and_literals(std::string_view text) { return blanked(text, true); }

std::vector<Include> includes_of(std::string_view text) {
  std::vector<Include> includes;
  const std::vector<std::string> lines = lines_of(blanked(text, false));
  for (std::size_t n = 0; n < lines.size(); ++n) {
    const std::string& line = lines[n];
    std::size_t i = line.find_first_not_of(" \t");
    if (i == std::string::npos || line[i] != '#') continue;
    i = line.find_first_not_of(" \t", i + 1);
    if (i == std::string::npos || line.compare(i, 7, "include") != 0) continue;
    i = line.find_first_of("\"<", i + 7);
    if (i == std::string::npos) continue;
    const std::size_t end = line.find(line[i] == '"' ? '"' : '>', i + 1);
    if (end == std::string::npos) continue;
    includes.push_back({static_cast<int>(n) + 1, line.substr(i + 1, end - i - 1), line[i] == '"'});
  }
  return includes;
}

}  // namespace moba::house
