#include "server/http/prometheus_text.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>

namespace moba::server {
namespace {

constexpr int kBucketsOfOctave = 4;

// Backslash, double quote and line feed are escaped in the value of a label.
void append_escaped(std::string_view value, std::string& out) {
  for (const char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
}

std::string number(double value) {
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return std::to_string(static_cast<std::int64_t>(value));
  }
  return fmt::format("{}", value);
}

}  // namespace

void PrometheusText::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void PrometheusText::sample(std::string_view suffix, const Labels& labels, double value) {
  text_ += name_;
  text_ += suffix;
  char separator = '{';
  for (const auto& [name, text] : labels) {
    text_ += separator;
    text_ += name;
    text_ += "=\"";
    append_escaped(text, text_);
    text_ += '"';
    separator = ',';
  }
  if (!labels.empty()) text_ += '}';
  text_ += ' ';
  text_ += number(value);
  text_ += '\n';
}

void PrometheusText::sample(const Labels& labels, double value) { sample("", labels, value); }

void PrometheusText::histogram(const Labels& labels, const LatencyHistogram& histogram) {
  std::int64_t below = 0;
  std::int64_t written = 0;
  for (int i = 0; i < LatencyHistogram::kNumBuckets; ++i) {
    below += histogram.bucket_count(i);
    const bool last = i == LatencyHistogram::kNumBuckets - 1;
    if (i % kBucketsOfOctave != 0 && !last) continue;
    const std::string bound = number(LatencyHistogram::upper_bound(i));
    Labels with_bound = labels;
    with_bound.emplace_back("le", bound);
    sample("_bucket", with_bound, static_cast<double>(below));
    written = below;
  }
  sample("_sum", labels, histogram.sum_seconds());
  sample("_count", labels, static_cast<double>(written));
}

}  // namespace moba::server
