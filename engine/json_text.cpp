#include "engine/json_text.h"

#include <algorithm>
#include <set>
#include <vector>

#include "device/check.h"
#include "engine/json_values.h"

namespace moba {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 64;

}  // namespace

Json parse_json_text(std::string_view text, const std::string& source) {
  std::vector<std::set<std::string>> open;  // keys of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, const Json& parsed) {
    MOBA_CHECK(depth <= kMaxDepth, source, ": JSON nested deeper than ", kMaxDepth);
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      MOBA_CHECK(open.back().insert(key).second, source, ": key ", json_values::shown_text(key),
                 " stands twice");
    }
    return true;
  };
  const auto not_json = [&](std::size_t byte) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(byte, text.size()));
    return Error(concat(source, ": not JSON at line ", 1 + std::count(text.begin(), end, '\n')));
  };
  // The parser would take a zero byte for the end.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw not_json(zero);
  }
  try {
    return Json::parse(text, check, /*allow_exceptions=*/true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    throw not_json(error.byte);
  } catch (const Json::exception& error) {
    throw Error(concat(source, ": not JSON: ", error.what()));
  }
}

}  // namespace moba
