// The texts and reference ids under tests/data/tokenizer (made by
// tests/fixtures/make_tokenizer_fixtures.py) and the tokenizers they belong to.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace moba::test {

struct NamedText {
  std::string name;
  std::string text;       // bytes; some are not valid UTF-8
  bool is_bytes = false;  // the script holds it as bytes: it may be invalid
};

nlohmann::json read_json(const std::filesystem::path& path);
// A file under tests/data/tokenizer.
std::filesystem::path data_file(std::string_view name);
std::string read_bytes(const std::filesystem::path& path);
void write_bytes(const std::filesystem::path& path, std::string_view content);

// [name, text] pairs, a text being a string or {"hex": ...}.
std::vector<NamedText> parse_texts(const nlohmann::json& list);
const std::vector<NamedText>& hard_texts();
// 50 KB of a novel.
const std::string& sample_text();
// Names of the tokenizers that are in the repository.
const std::vector<std::string>& committed_tokenizers();

// Directory of a tokenizer by its name. Empty if it is one whose licence keeps it out of the
// repository and it is not on this machine: then a line with SKIPPED has been printed.
std::filesystem::path tokenizer_dir(const std::string& name);
// Loaded once a process. Null in that case.
std::shared_ptr<const Tokenizer> shared_tokenizer(const std::string& name);

// FNV-1a over the ids, one step an id, as 16 hexadecimal digits; the script has the same.
std::string hash_ids(const std::vector<TokenId>& ids);
// True if `ids` are what a fixture says: a list, or the count and the hash of one.
bool ids_match(const std::vector<TokenId>& ids, const nlohmann::json& expected);

// What() of the std::exception that `call` throws; "no error" if it throws none.
template <typename F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

// A new directory that goes with the object.
class ScratchDir {
 public:
  ScratchDir();
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace moba::test
