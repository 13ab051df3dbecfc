#include "tools/moba/output.h"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "tools/moba/errors.h"

namespace moba::cli {
namespace {

std::string scaled(double value, double step, const std::array<std::string_view, 5>& units) {
  std::size_t unit = 0;
  while (value >= step && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  return fmt::format("{:.{}f}{}", value, unit == 0 ? 0 : 1, units[unit]);
}

// "MoBA in layers 0-7", or "MoBA in all layers".
std::string in_layers(std::string_view kind, const std::vector<int>& layers, std::size_t total) {
  if (layers.size() == total) return fmt::format("{} in all {} layers", kind, total);
  return fmt::format("{} in layer{} {}", kind, layers.size() == 1 ? "" : "s", ranges(layers));
}

}  // namespace

void write_stdout(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      throw OutputError(std::string("cannot write to standard output: ") + std::strerror(errno),
                        errno == EPIPE);
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

void write_json(const OrderedJson& json) {
  write_stdout(json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

std::string with_commas(std::int64_t value) {
  std::string digits = std::to_string(value);
  const std::size_t first = digits.front() == '-' ? 1 : 0;
  for (std::size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string human_bytes(std::int64_t bytes) {
  return scaled(static_cast<double>(bytes), 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
}

std::string human_count(std::int64_t count) {
  return scaled(static_cast<double>(count), 1000, {"", "K", "M", "B", "T"});
}

std::string ranges(const std::vector<int>& values) {
  std::string out;
  for (std::size_t begin = 0; begin < values.size();) {
    std::size_t end = begin + 1;
    while (end < values.size() && values[end] == values[end - 1] + 1) ++end;
    if (!out.empty()) out += ',';
    out += end - begin > 1 ? fmt::format("{}-{}", values[begin], values[end - 1])
                           : fmt::format("{}", values[begin]);
    begin = end;
  }
  return out;
}

std::string describe_attention(const std::vector<int>& layer_topk, int moba_block_size) {
  std::vector<int> moba;
  std::vector<int> full;
  std::vector<int> topks;
  for (std::size_t i = 0; i < layer_topk.size(); ++i) {
    (layer_topk[i] > 0 ? moba : full).push_back(static_cast<int>(i));
    if (layer_topk[i] > 0) topks.push_back(layer_topk[i]);
  }
  if (moba.empty()) return in_layers("full attention", full, layer_topk.size());
  std::sort(topks.begin(), topks.end());
  topks.erase(std::unique(topks.begin(), topks.end()), topks.end());
  std::string text = in_layers("MoBA", moba, layer_topk.size()) +
                     fmt::format(" (block {}, top-k {})", moba_block_size, ranges(topks));
  if (!full.empty()) text += ", " + in_layers("full attention", full, layer_topk.size());
  return text;
}

OrderedJson attention_json(const std::vector<int>& layer_topk, int moba_block_size) {
  OrderedJson layers = OrderedJson::array();
  for (const int topk : layer_topk) layers.push_back(topk > 0 ? "moba" : "full");
  return {{"moba_block_size", moba_block_size}, {"layers", layers}, {"layer_topk", layer_topk}};
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    if (key == "VmHWM:") {
      std::int64_t kib = 0;
      status >> kib;
      return kib * 1024;
    }
    std::getline(status, key);
  }
  return 0;
}

}  // namespace moba::cli
