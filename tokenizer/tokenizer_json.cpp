#include "tokenizer/tokenizer_json.h"

#include <array>

#include "tokenizer/json_view.h"

namespace moba {

namespace {

using nlohmann::json;

// Follows the parser through the document and takes the members of model.vocab and model.merges out
// of it. The parser's depth is that of the innermost open container: 1 inside the top-level object,
// 2 inside "model", 3 inside "vocab" or "merges", 4 inside a pair.
class Extractor {
 public:
  explicit Extractor(TokenizerJson& out) : out_(out) {}

  // True: the parser keeps the value; false: it drops it.
  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) fail("", "JSON nested deeper than 64 levels");
    if (event == json::parse_event_t::key) {
      if (depth == 1) in_model_ = parsed.get_ref<const std::string&>() == "model";
      if (depth == 2 && in_model_) member_ = parsed.get_ref<const std::string&>();
      const bool entry = depth == 3 && in_vocab_;
      if (entry) key_ = parsed.get_ref<const std::string&>();
      return !entry;
    }
    if (depth == 2 && in_model_) {
      // Events of a container carry the depth around it.
      if (event == json::parse_event_t::object_start && member_ == "vocab")
        begin(in_vocab_, out_.has_vocab);
      if (event == json::parse_event_t::array_start && member_ == "merges")
        begin(in_merges_, out_.has_merges);
      if (event == json::parse_event_t::object_end) in_vocab_ = false;
      if (event == json::parse_event_t::array_end) in_merges_ = false;
      return true;
    }
    if (depth >= 3 && in_vocab_) return vocab_value(event, parsed);
    if (depth >= 3 && in_merges_) return merge_value(depth, event, parsed);
    return true;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] void fail(const std::string& key, const std::string& message) const {
    fail_in_file(out_.file, key, message);
  }

  void begin(bool& inside, bool& seen) {
    if (seen) fail("model." + member_, "given twice");
    seen = true;
    inside = true;
  }

  bool vocab_value(json::parse_event_t event, const json& parsed) {
    if (event != json::parse_event_t::value || !parsed.is_number_integer()) {
      fail("model.vocab", "the id of " + in_double_quotes(key_) + " is not an integer");
    }
    const bool huge = parsed.is_number_unsigned() && parsed.get<std::uint64_t>() > INT32_MAX;
    out_.vocab.push_back({static_cast<std::uint32_t>(out_.arena.size()),
                          static_cast<std::uint32_t>(key_.size()),
                          huge ? INT32_MAX : parsed.get<std::int64_t>()});
    out_.arena.append(key_);
    return false;
  }

  std::string merge_key() const {
    return "model.merges[" + std::to_string(out_.merges.size()) + "]";
  }

  void add_merge(std::string_view left, std::string_view right) {
    out_.merges.push_back({static_cast<std::uint32_t>(out_.arena.size()),
                           static_cast<std::uint32_t>(left.size()),
                           static_cast<std::uint32_t>(right.size())});
    out_.arena.append(left).append(right);
  }

  bool merge_value(int depth, json::parse_event_t event, const json& parsed) {
    if (depth == 3 && event == json::parse_event_t::array_start) {
      pair_size_ = 0;
      return true;
    }
    if (depth == 3 && event == json::parse_event_t::array_end) {
      if (pair_size_ != 2) fail(merge_key(), "expected a pair of tokens");
      add_merge(pair_[0], pair_[1]);
      return false;
    }
    if (event != json::parse_event_t::value || !parsed.is_string()) {
      fail(merge_key(), "expected a string or a pair of strings");
    }
    const std::string& text = parsed.get_ref<const std::string&>();
    if (depth == 4) {
      if (pair_size_ == 2) fail(merge_key(), "expected a pair of tokens");
      pair_[pair_size_++] = text;
      return false;
    }
    if (text.starts_with("#version")) return false;
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail(merge_key(), in_double_quotes(text) + " is not two tokens with a space between");
    }
    add_merge(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1));
    return false;
  }

  TokenizerJson& out_;
  bool in_model_ = false;
  bool in_vocab_ = false;
  bool in_merges_ = false;
  std::string member_;  // the member of "model" that is being read
  std::string key_;     // of the entry of model.vocab that is being read
  std::array<std::string, 2> pair_;
  std::size_t pair_size_ = 0;
};

}  // namespace

TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  TokenizerJson out;
  out.file = path.string();
  const std::string text = read_tokenizer_file(path, kMaxTokenizerFileBytes);
  out.arena.reserve(text.size() / 2);
  Extractor extractor(out);
  try {
    out.document =
        json::parse(text, [&extractor](int depth, json::parse_event_t event, json& parsed) {
          return extractor(depth, event, parsed);
        });
  } catch (const json::exception& error) {
    fail_in_file(out.file, "", "not valid JSON: " + printable(error.what(), 200));
  }
  if (!out.document.is_object()) {
    fail_in_file(out.file, "",
                 std::string("expected a JSON object, got ") + out.document.type_name());
  }
  return out;
}

}  // namespace moba
