#include "tokenizer/tokenizer.h"

#include <system_error>

#include "tokenizer/bpe.h"
#include "tokenizer/json_view.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/sentencepiece.h"

namespace moba {

bool has_tokenizer(const std::filesystem::path& dir) {
  std::error_code ignored;
  return std::filesystem::exists(dir / "tokenizer.json", ignored) ||
         std::filesystem::exists(dir / "tokenizer.model", ignored);
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(dir, ignored)) {
    fail_in_file(dir.string(), "", "no such directory");
  }
  const bool has_json = std::filesystem::exists(dir / "tokenizer.json", ignored);
  const bool has_model = std::filesystem::exists(dir / "tokenizer.model", ignored);
  if (!has_json && !has_model) {
    fail_in_file(dir.string(), "", "holds neither tokenizer.json nor tokenizer.model");
  }
  if (!has_json) return load_sentencepiece_tokenizer(dir);
  try {
    return load_bpe_tokenizer(dir);
  } catch (const UnsupportedTokenizer&) {
    if (!has_model) throw;
  }
  return load_sentencepiece_tokenizer(dir);
}

}  // namespace moba
