#include "tools/batch/line_counter.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>

namespace moba::batch {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

}  // namespace

LineCounter::LineCounter(const InputFile& input, const Shard& shard) {
  if (!input.is_regular()) return;
  thread_ = std::thread([this, &input, begin = shard.begin(input.size()),
                         end = shard.end(input.size())] { count(input, begin, end); });
}

LineCounter::~LineCounter() {
  stop_.store(true);
  if (thread_.joinable()) thread_.join();
}

void LineCounter::count(const InputFile& input, std::int64_t begin, std::int64_t end) {
  if (begin >= end) {
    total_.store(0);
    return;
  }
  std::string buffer(kBufferBytes, '\0');
  std::int64_t lines = 0;
  // A line counts if it begins in the part and has something in it. The one that the part begins in
  // the middle of belongs to the part before: reading starts with the byte before.
  std::int64_t offset = std::max<std::int64_t>(0, begin - 1);
  bool counts = begin == 0;  // the line at hand begins in the part
  bool filled = false;       // and has something in it
  while (!stop_.load()) {
    const ssize_t n = ::pread(input.fd(), buffer.data(), buffer.size(), offset);
    if (n < 0) return;
    if (n == 0) break;
    std::string_view rest(buffer.data(), static_cast<std::size_t>(n));
    while (!rest.empty()) {
      const std::size_t newline = rest.find('\n');
      const std::string_view piece = rest.substr(0, newline);
      if (counts && !filled) {
        filled = piece.find_first_not_of(" \t\r\v\f") != std::string_view::npos;
      }
      offset += static_cast<std::int64_t>(piece.size());
      if (newline == std::string_view::npos) break;
      if (filled) ++lines;
      rest.remove_prefix(newline + 1);
      ++offset;
      counts = true;
      filled = false;
      if (offset >= end) {
        total_.store(lines);
        return;
      }
    }
  }
  if (stop_.load()) return;
  if (filled) ++lines;
  total_.store(lines);
}

}  // namespace moba::batch
