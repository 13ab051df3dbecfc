#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>

#include "tests/house/house_rules.h"
#include "tests/house/source_text.h"

namespace moba::house {
namespace {

const std::set<std::string, std::less<>> kLibrary = {"device",    "tokenizer", "kvcache",
                                                     "attention", "model",     "engine"};

// Identifiers and keywords of a line, in order.
std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words(1);
  for (char c : line) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
      words.back() += c;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// Names of the CUDA runtime and its libraries, as cudaMalloc or ncclAllReduce, and its keywords.
bool is_cuda_word(std::string_view word) {
  for (std::string_view prefix : {"cuda", "cublas", "cublasLt", "cudnn", "nccl", "CUDA", "NCCL"}) {
    if (!starts_with(word, prefix) || word.size() == prefix.size()) continue;
    const char next = word[prefix.size()];
    if (std::isupper(static_cast<unsigned char>(next)) != 0 || next == '_') return true;
  }
  return word == "__global__" || word == "__device__" || word == "__shared__";
}

bool is_cuda_header(std::string_view path) {
  for (std::string_view prefix : {"cuda", "cublas", "cudnn", "nccl", "cutlass", "cute/"}) {
    if (starts_with(path, prefix)) return true;
  }
  return false;
}

bool is_intrinsics_header(std::string_view path) {
  return ends_with(path, "intrin.h") || path == "arm_neon.h" || path == "arm_sve.h";
}

// A preprocessor condition that asks for CUDA, as #ifdef MOBA_CUDA or #if USE_CUDA. Which
// architecture device code is compiled for (__CUDA_ARCH__) is another question.
bool is_cuda_condition(std::string_view line) {
  const std::size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string_view::npos || line[hash] != '#') return false;
  const std::vector<std::string> words = words_of(line);
  if (words.empty() || (!starts_with(words[0], "if") && !starts_with(words[0], "elif"))) {
    return false;
  }
  return std::any_of(words.begin() + 1, words.end(), [](const std::string& word) {
    return word.find("CUDA") != std::string::npos && word != "__CUDA_ARCH__";
  });
}

class TextCheck {
 public:
  TextCheck(const std::string& file, const std::string& content, std::vector<Finding>& findings)
      : file_(file), content_(content), folders_(folders_of(file)), findings_(findings) {}

  void run() {
    if (is_header(file_) && content_.find("#pragma once") == std::string::npos) {
      report(0, "a header starts with #pragma once");
    }
    check_headers();
    check_words();
  }

 private:
  bool in_folder(std::string_view name) const {
    return std::find(folders_.begin(), folders_.end(), name) != folders_.end();
  }
  bool in_library() const { return !folders_.empty() && kLibrary.count(folders_[0]) != 0; }

  void check_headers() {
    for (const Include& include : includes_of(content_)) {
      if (!in_folder("cuda") && is_cuda_header(include.path)) {
        report(include.line, "<" + include.path + "> outside a cuda/ folder");
      }
      if (in_library() && !in_folder("cpu") && is_intrinsics_header(include.path)) {
        report(include.line, "<" + include.path + "> outside a cpu/ folder");
      }
    }
  }

  void check_words() {
    const std::vector<std::string> lines = lines_of(without_comments_and_literals(content_));
    for (std::size_t n = 0; n < lines.size(); ++n) {
      const int line = static_cast<int>(n) + 1;
      if (is_cuda_condition(lines[n])) {
        report(line, "a backend is a folder that is linked or not, never a preprocessor condition");
        continue;
      }
      for (const std::string& word : words_of(lines[n])) {
        if (!in_folder("cuda") && (is_cuda_word(word) || word == "__CUDA_ARCH__")) {
          report(line, word + " outside a cuda/ folder");
        }
        if (in_library() && (word == "getenv" || word == "secure_getenv")) {
          report(line, "the library reads no environment variables; pass it a configuration");
        }
      }
    }
  }

  void report(int line, std::string message) {
    findings_.push_back({file_, line, std::move(message)});
  }

  const std::string& file_;
  const std::string& content_;
  const std::vector<std::string> folders_;
  std::vector<Finding>& findings_;
};

}  // namespace

std::vector<Finding> check_text(const Tree& tree) {
  std::vector<Finding> findings;
  for (const auto& [file, content] : tree) {
    if (is_header(file) || is_source(file)) TextCheck(file, content, findings).run();
  }
  return findings;
}

}  // namespace moba::house
