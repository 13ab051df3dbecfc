#include <set>
#include <string_view>

#include "tests/house/house_rules.h"
#include "tests/house/source_text.h"

namespace moba::house {
namespace {

constexpr std::string_view kPublic = "engine/include/moba/";

// A part of the tree and the parts it may include: prefixes of paths, itself not listed.
struct Room {
  std::string_view prefix;
  std::vector<std::string_view> below;
};

// The floors of docs/architecture.md. The first room whose prefix fits a file is its room.
const std::vector<Room>& rooms() {
  static const std::vector<Room> kRooms = {
      {"device/", {}},
      {"tokenizer/", {}},
      {"kvcache/", {"device/"}},
      {"attention/", {"kvcache/paged_kv_view.h", "device/"}},
      {"model/", {"attention/", "kvcache/", "device/"}},
      {kPublic, {}},
      {"engine/", {"model/", "attention/", "kvcache/", "tokenizer/", "device/"}},
      {"server/openai/", {kPublic}},
      {"server/", {"server/openai/", kPublic}},
      {"tools/bench/",
       {kPublic, "engine/", "model/", "attention/", "kvcache/", "tokenizer/", "device/"}},
      {"tools/", {"server/", kPublic}},
      {"tests/",
       {"tools/", "server/", "engine/", "model/", "attention/", "kvcache/", "tokenizer/",
        "device/"}},
  };
  return kRooms;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

const Room* room_of(std::string_view path) {
  for (const Room& room : rooms()) {
    if (starts_with(path, room.prefix)) return &room;
  }
  return nullptr;
}

bool may_include(const Room& room, std::string_view target) {
  if (starts_with(target, room.prefix)) return true;
  for (std::string_view prefix : room.below) {
    if (starts_with(target, prefix)) return true;
  }
  return false;
}

std::string allowed(const Room& room) {
  std::string text;
  for (std::string_view prefix : room.below) text += std::string(prefix) + " ";
  return text.empty() ? "nothing else of ours" : text + "and itself";
}

// The tree's file that an include names, or "" if it is none of ours.
std::string resolve(const Tree& tree, const std::string& include) {
  if (tree.count(include) != 0) return include;
  const std::string in_public = "engine/include/" + include;
  return tree.count(in_public) != 0 ? in_public : "";
}

// A C++ standard header, or one of those that the C interface needs.
bool is_standard(std::string_view include) {
  return include.find_first_of("/.") == std::string_view::npos || include == "stdint.h" ||
         include == "stddef.h" || include == "stdbool.h";
}

void check_include(const Tree& tree, const std::string& file, const Include& include,
                   std::vector<Finding>& findings) {
  const Room* room = room_of(file);
  if (room == nullptr) return;  // check_files names it
  const std::string target = resolve(tree, include.path);
  if (target.empty()) {
    if (include.quoted) {
      findings.push_back({file, include.line,
                          "\"" + include.path +
                              "\" is no path from the repository's root; outside libraries are "
                              "included with <>"});
    } else if (room->prefix == kPublic && !is_standard(include.path)) {
      findings.push_back(
          {file, include.line,
           "a public header includes the standard library only, not <" + include.path + ">"});
    }
    return;
  }
  if (!may_include(*room, target)) {
    findings.push_back({file, include.line,
                        std::string(room->prefix) + " may not include " + target + " (" +
                            allowed(*room) + " stand below it)"});
  }
}

// Depth-first search for circles among headers.
class CircleSearch {
 public:
  explicit CircleSearch(const Tree& tree) : tree_(tree) {}

  std::vector<Finding> run() {
    for (const auto& [file, content] : tree_) {
      if (is_header(file)) visit(file);
    }
    return findings_;
  }

 private:
  void visit(const std::string& file) {
    if (!seen_.insert(file).second) return;
    open_.insert(file);
    for (const Include& include : includes_of(tree_.at(file))) {
      const std::string target = resolve(tree_, include.path);
      if (target.empty() || !is_header(target)) continue;
      if (open_.count(target) != 0) {
        findings_.push_back({file, include.line, "including " + target + " closes a circle"});
      } else {
        visit(target);
      }
    }
    open_.erase(file);
  }

  const Tree& tree_;
  std::set<std::string> seen_;
  std::set<std::string> open_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> check_includes(const Tree& tree) {
  std::vector<Finding> findings = CircleSearch(tree).run();
  for (const auto& [file, content] : tree) {
    if (!is_header(file) && !is_source(file)) continue;
    for (const Include& include : includes_of(content)) {
      check_include(tree, file, include, findings);
    }
  }
  return findings;
}

}  // namespace moba::house
