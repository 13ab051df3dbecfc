#include "tools/batch/run_id.h"

#include <charconv>

namespace moba::batch {
namespace {

constexpr std::string_view kPrefix = "batch_req_";
constexpr std::size_t kDigits = 16;

bool parse_hex(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string ResultId::text() const { return std::string(kPrefix) + to_hex(run) + to_hex(line); }

std::optional<ResultId> ResultId::parse(std::string_view text) {
  ResultId id;
  if (text.size() != kPrefix.size() + 2 * kDigits || text.substr(0, kPrefix.size()) != kPrefix ||
      !parse_hex(text.substr(kPrefix.size(), kDigits), id.run) ||
      !parse_hex(text.substr(kPrefix.size() + kDigits), id.line)) {
    return std::nullopt;
  }
  return id;
}

std::uint64_t line_hash(std::string_view text) { return hash_bytes(text).low; }

Hash128 key_of_id(std::string_view custom_id) {
  std::string bytes = "i";
  bytes += custom_id;
  return hash_bytes(bytes);
}

Hash128 key_of_line(std::int64_t number) {
  std::string bytes = "l";
  bytes += std::to_string(number);
  return hash_bytes(bytes);
}

std::string record_start(std::uint64_t run) {
  return R"({"id":")" + std::string(kPrefix) + to_hex(run);
}

}  // namespace moba::batch
