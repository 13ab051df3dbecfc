#include <filesystem>
#include <string_view>

#include "tests/house/house_rules.h"
#include "tests/house/source_text.h"

namespace moba::house {
namespace {

// The targets of the links [text](target) of a line.
std::vector<std::string> targets_of(std::string_view line) {
  std::vector<std::string> targets;
  for (std::size_t at = line.find("]("); at != std::string_view::npos; at = line.find("](", at)) {
    at += 2;
    const std::size_t end = line.find(')', at);
    if (end == std::string_view::npos) break;
    targets.emplace_back(line.substr(at, end - at));
  }
  return targets;
}

// Whether the tree has a file of that path or a folder with files in it.
bool exists(const Tree& tree, const std::string& path) {
  if (tree.count(path) != 0) return true;
  const auto inside = tree.lower_bound(path + "/");
  return inside != tree.end() && inside->first.rfind(path + "/", 0) == 0;
}

}  // namespace

std::vector<Finding> check_links(const Tree& tree) {
  std::vector<Finding> findings;
  for (const auto& [file, content] : tree) {
    if (!is_page(file)) continue;
    const std::vector<std::string> lines = lines_of(content);
    for (std::size_t n = 0; n < lines.size(); ++n) {
      for (const std::string& target : targets_of(lines[n])) {
        const std::string path = target.substr(0, target.find('#'));
        if (path.empty() || path.find("://") != std::string::npos) continue;
        const auto full = std::filesystem::path(file).parent_path() / path;
        if (!exists(tree, full.lexically_normal().generic_string())) {
          findings.push_back({file, static_cast<int>(n) + 1, "no file " + path});
        }
      }
    }
  }
  return findings;
}

}  // namespace moba::house
