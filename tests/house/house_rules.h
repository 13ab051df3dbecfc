// The rules of the source tree that a compiler does not check: which folder may include which,
// where CUDA and processor intrinsics may stand, which files a build knows. docs/architecture.md
// says why.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace moba::house {

// Path from the root, with '/', to content. Only C++ files, CMakeLists.txt and pages (.md) carry
// their content.
using Tree = std::map<std::string, std::string>;

// The tree below `root` without build outputs and hidden folders.
Tree read_tree(const std::filesystem::path& root);

struct Finding {
  std::string file;
  int line = 0;  // from 1; 0: the file as a whole
  std::string message;
};

// "file:line: message"
std::string to_string(const Finding& finding);

// Each include that climbs above its floor, is not written from the repository's root, or closes a
// circle of headers.
std::vector<Finding> check_includes(const Tree& tree);

// CUDA outside a cuda/ folder, intrinsics outside a cpu/ folder, getenv in the library, a header
// without #pragma once.
std::vector<Finding> check_text(const Tree& tree);

// Code in a folder that has none, a source that no CMakeLists.txt of its folder or one above names,
// a file of more than 600 lines that is not in `long_files` (path to reason), and an entry of
// `long_files` that is not needed.
std::vector<Finding> check_files(const Tree& tree,
                                 const std::map<std::string, std::string>& long_files);

// A relative link of a page (.md) to a file that is not there.
std::vector<Finding> check_links(const Tree& tree);

}  // namespace moba::house
