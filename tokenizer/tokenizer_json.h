// The file tokenizer.json, read once: its vocabulary and merges, which are nearly all of it, go to
// flat arrays as they are parsed; the rest stays a JSON document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moba {

struct TokenizerJson {
  struct VocabEntry {
    std::uint32_t offset;  // of its name in `arena`
    std::uint32_t length;
    std::int64_t id;
  };
  struct MergeEntry {
    std::uint32_t offset;  // of the left and, right behind it, the right name in `arena`
    std::uint32_t left_length;
    std::uint32_t right_length;
  };

  std::string file;         // for messages
  nlohmann::json document;  // without model.vocab and model.merges
  std::string arena;
  std::vector<VocabEntry> vocab;   // model.vocab in the order of the file
  std::vector<MergeEntry> merges;  // model.merges: "a b" strings or ["a", "b"] pairs, by rank
  bool has_vocab = false;
  bool has_merges = false;

  std::string_view name(const VocabEntry& entry) const {
    return std::string_view(arena).substr(entry.offset, entry.length);
  }
  std::pair<std::string_view, std::string_view> names(const MergeEntry& entry) const {
    const std::string_view both(arena);
    return {both.substr(entry.offset, entry.left_length),
            both.substr(entry.offset + entry.left_length, entry.right_length)};
  }
};

// Throws std::runtime_error with one line that names the file and, where it can, the key. Models
// whose vocabulary is no object (Unigram) are left in the document.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);

}  // namespace moba
