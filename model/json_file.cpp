#include "model/json_file.h"

#include <cstddef>
#include <cstring>
#include <set>
#include <vector>

#include "device/check.h"
#include "model/mapped_file.h"

namespace moba {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{32} << 20;
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxQuoted = 120;

}  // namespace

std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxQuoted)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    out += control ? '?' : c;
  }
  return out + (text.size() > kMaxQuoted ? "...'" : "'");
}

json load_json_object(const std::filesystem::path& path) {
  const MappedFile file(path);
  MOBA_CHECK(file.size() > 0, path.string(), ": empty file");
  MOBA_CHECK(file.size() <= kMaxFileBytes, path.string(), ": ", file.size(),
             " bytes, more than the ", kMaxFileBytes, " allowed");

  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, const json& value) {
    MOBA_CHECK(depth <= kMaxDepth, path.string(), ": JSON nested deeper than ", kMaxDepth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      MOBA_CHECK(keys.back().insert(key).second, path.string(), ": key ", in_quotes(key),
                 " given twice");
    }
    return true;
  };
  const auto* begin = reinterpret_cast<const char*>(file.data());
  // The parser would take a zero byte for the end.
  MOBA_CHECK(std::memchr(begin, 0, file.size()) == nullptr, path.string(),
             ": not JSON (a zero byte)");
  json value;
  try {
    value = json::parse(begin, begin + file.size(), check);
  } catch (const json::parse_error& error) {
    throw Error(concat(path.string(), ": not JSON (at byte ", error.byte, ")"));
  }
  MOBA_CHECK(value.is_object(), path.string(), ": not a JSON object");
  return value;
}

}  // namespace moba
