#include "tools/batch/record_scan.h"

#include <nlohmann/json.hpp>

namespace moba::batch {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;

// A handler of the parser's events; returning false ends the parse.
class HeadScanner {
 public:
  RecordHead& head() { return head_; }

  bool null() { return value(); }
  bool boolean(bool) { return value(); }
  bool number_integer(Json::number_integer_t number) {
    if (in_error_ && depth_ == 2 && key_ == "line") head_.error_line = number;
    return value();
  }
  bool number_unsigned(Json::number_unsigned_t number) {
    return number_integer(static_cast<Json::number_integer_t>(number));
  }
  bool number_float(Json::number_float_t, const std::string&) { return value(); }
  bool string(std::string& text) {
    if (depth_ == 1 && key_ == "id") head_.id = text;
    // The last one counts where a key stands twice, as for the parser that builds values.
    if (depth_ == 1 && key_ == "custom_id") {
      head_.custom_id = text.empty() ? std::nullopt : std::optional<std::string>(text);
    }
    if (in_error_ && depth_ == 2 && key_ == "code") head_.error_code = text;
    return value();
  }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) {
    if (depth_ == 1) in_error_ = key_ == "error";
    return ++depth_ <= kMaxDepth;
  }
  bool start_array(std::size_t) { return depth_ > 0 && ++depth_ <= kMaxDepth; }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& text) {
    if (depth_ <= 2) key_ = text;
    if (depth_ == 1 && text == "custom_id") head_.custom_id.reset();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) { return false; }

 private:
  bool value() { return depth_ > 0; }
  bool leave() {
    if (--depth_ == 1) in_error_ = false;
    return true;
  }

  RecordHead head_;
  std::string key_;
  int depth_ = 0;
  bool in_error_ = false;
};

}  // namespace

std::optional<RecordHead> scan_record(std::string_view text) {
  HeadScanner scanner;
  if (!Json::sax_parse(text, &scanner)) return std::nullopt;
  return std::move(scanner.head());
}

}  // namespace moba::batch
