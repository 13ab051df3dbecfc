#include "tests/tokenizer/fixtures.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>

namespace moba::test {

namespace fs = std::filesystem;

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_bytes(const fs::path& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

nlohmann::json read_json(const fs::path& path) { return nlohmann::json::parse(read_bytes(path)); }

fs::path data_file(std::string_view name) {
  return fs::path(MOBA_TEST_DATA_DIR) / "tokenizer" / name;
}

std::vector<NamedText> parse_texts(const nlohmann::json& list) {
  std::vector<NamedText> out;
  for (const nlohmann::json& entry : list) {
    NamedText text{entry.at(0), "", !entry.at(1).is_string()};
    if (!text.is_bytes) {
      text.text = entry.at(1);
    } else {
      const std::string hex = entry.at(1).at("hex");
      for (std::size_t i = 0; i < hex.size(); i += 2) {
        text.text.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
      }
    }
    out.push_back(std::move(text));
  }
  return out;
}

const std::vector<NamedText>& hard_texts() {
  static const std::vector<NamedText> texts = parse_texts(read_json(data_file("texts.json")));
  return texts;
}

const std::string& sample_text() {
  static const std::string text = read_bytes(data_file("sample.txt"));
  return text;
}

const std::vector<std::string>& committed_tokenizers() {
  static const std::vector<std::string> names = {"gpt2", "qwen3", "mistral-v1", "pieces",
                                                 "moba-books-19m"};
  return names;
}

fs::path tokenizer_dir(const std::string& name) {
  if (name == "moba-books-19m") return fs::path(MOBA_SOURCE_DIR) / "configs/models" / name;
  const fs::path shared(MOBA_SHARED_TOKENIZERS);
  const fs::path dir = name == "llama2" ? shared / name : fs::path(MOBA_TEST_VOCABULARIES) / name;
  const bool restricted = name == "llama2" || name == "llama3";
  const bool absent = shared.empty() || !fs::exists(dir) || fs::is_empty(dir);
  if (restricted && absent) {
    std::cout << "SKIPPED: the tokenizer of " << name
              << " is not on this machine (set MOBA_SHARED_TOKENIZERS when configuring)\n";
    return {};
  }
  return dir;
}

std::shared_ptr<const Tokenizer> shared_tokenizer(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Tokenizer>> loaded;
  std::shared_ptr<const Tokenizer>& entry = loaded[name];
  if (entry == nullptr) {
    const fs::path dir = tokenizer_dir(name);
    if (!dir.empty()) entry = load_tokenizer(dir);
  }
  return entry;
}

std::string hash_ids(const std::vector<TokenId>& ids) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const TokenId id : ids) hash = (hash ^ static_cast<std::uint64_t>(id)) * 0x100000001B3ULL;
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

bool ids_match(const std::vector<TokenId>& ids, const nlohmann::json& expected) {
  if (expected.is_array()) return ids == expected.get<std::vector<TokenId>>();
  return ids.size() == expected.at("count").get<std::size_t>() &&
         hash_ids(ids) == expected.at("hash").get<std::string>();
}

ScratchDir::ScratchDir() {
  std::string name = (fs::temp_directory_path() / "moba_tokenizer_test_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
  path_ = name;
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace moba::test
