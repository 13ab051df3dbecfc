// What the house rules read out of a C++ file, without parsing it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moba::house {

bool ends_with(std::string_view text, std::string_view end);
bool is_header(std::string_view path);  // .h .hpp .cuh
bool is_source(std::string_view path);  // .cpp .cc .cxx .c .cu
bool is_cmake_list(std::string_view path);
bool is_page(std::string_view path);  // .md

// The folders of a path: "a/b/c.h" -> {"a", "b"}.
std::vector<std::string> folders_of(std::string_view path);

// Lines without their ends. A last line without an end counts.
std::vector<std::string> lines_of(std::string_view text);

// The text with comments, and the insides of string and character literals, as spaces; line ends
// stay. Raw strings are known.
std::string without_comments_and_literals(std::string_view text);

struct Include {
  int line = 0;
  std::string path;
  bool quoted = false;  // "path", not <path>
};

// The #include lines that are not commented out.
std::vector<Include> includes_of(std::string_view text);

}  // namespace moba::house
