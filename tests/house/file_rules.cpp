#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <string_view>

#include "tests/house/house_rules.h"
#include "tests/house/source_text.h"

namespace moba::house {
namespace {

constexpr std::size_t kMaxLines = 600;

// The fixed top level that holds C++; configs and docs hold none.
const std::set<std::string, std::less<>> kCodeFolders = {
    "device", "tokenizer", "kvcache", "attention", "model", "engine", "server", "tools", "tests"};

bool is_code(std::string_view path) {
  return is_header(path) || is_source(path) || ends_with(path, ".py") || ends_with(path, ".sh");
}

bool is_path_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '/' || c == '.' ||
         c == '-';
}

// Whether `text` holds `name` as a word of its own.
bool names(std::string_view text, std::string_view name) {
  for (std::size_t at = text.find(name); at != std::string_view::npos;
       at = text.find(name, at + 1)) {
    const std::size_t end = at + name.size();
    if ((at == 0 || !is_path_char(text[at - 1])) &&
        (end == text.size() || !is_path_char(text[end]))) {
      return true;
    }
  }
  return false;
}

// Whether a CMakeLists.txt beside or above the file names it.
bool is_listed(const Tree& tree, const std::string& file) {
  for (std::size_t slash = file.rfind('/'); slash != std::string::npos && slash > 0;
       slash = file.rfind('/', slash - 1)) {
    const auto list = tree.find(file.substr(0, slash + 1) + "CMakeLists.txt");
    if (list != tree.end() && names(list->second, file.substr(slash + 1))) return true;
  }
  return false;
}

void check_length(const std::string& file, const std::string& content, bool allowed,
                  std::vector<Finding>& findings) {
  const std::size_t num_lines = lines_of(content).size();
  if (num_lines > kMaxLines && !allowed) {
    findings.push_back({file, 0,
                        std::to_string(num_lines) + " lines, over " + std::to_string(kMaxLines) +
                            ": cut it by purpose"});
  }
  if (num_lines <= kMaxLines && allowed) {
    findings.push_back({file, 0, "is short again: take it off the list of long files"});
  }
}

}  // namespace

std::string to_string(const Finding& finding) {
  std::string text = finding.file;
  if (finding.line > 0) text += ':' + std::to_string(finding.line);
  return text + ": " + finding.message;
}

Tree read_tree(const std::filesystem::path& root) {
  Tree tree;
  for (auto entry = std::filesystem::recursive_directory_iterator(root);
       entry != std::filesystem::recursive_directory_iterator(); ++entry) {
    const std::string name = entry->path().filename().string();
    if (entry->is_directory()) {
      const bool output = entry.depth() == 0 && (name.rfind("build", 0) == 0 || name == "models");
      if (name[0] == '.' || name == "__pycache__" || output) entry.disable_recursion_pending();
      continue;
    }
    const std::string path = entry->path().lexically_relative(root).generic_string();
    std::string& content = tree[path];
    if (is_header(path) || is_source(path) || is_cmake_list(path) || is_page(path)) {
      std::ifstream file(entry->path(), std::ios::binary);
      content.assign(std::istreambuf_iterator<char>(file), {});
    }
  }
  return tree;
}

std::vector<Finding> check_files(const Tree& tree,
                                 const std::map<std::string, std::string>& long_files) {
  std::vector<Finding> findings;
  for (const auto& [file, content] : tree) {
    if (!is_code(file)) continue;
    const std::vector<std::string> folders = folders_of(file);
    if (folders.empty() || kCodeFolders.count(folders[0]) == 0) {
      findings.push_back({file, 0, "code stands in none of the folders for code"});
      continue;
    }
    const bool cuda = ends_with(file, ".cu") || ends_with(file, ".cuh");
    if (cuda && std::find(folders.begin(), folders.end(), "cuda") == folders.end()) {
      findings.push_back({file, 0, "CUDA code outside a cuda/ folder"});
    }
    if (is_source(file) && !is_listed(tree, file)) {
      findings.push_back({file, 0, "no CMakeLists.txt beside or above it names it"});
    }
    if (is_header(file) || is_source(file)) {
      check_length(file, content, long_files.count(file) != 0, findings);
    }
  }
  for (const auto& [file, reason] : long_files) {
    if (tree.count(file) == 0) {
      findings.push_back({file, 0, "is gone: take it off the list of long files"});
    }
  }
  return findings;
}

}  // namespace moba::house
