// Prometheus's text format, version 0.0.4. Debian has no library that writes it; the counts are the
// engine's own, so that the format is all there is to do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moba/stats.h"

namespace moba::server {

class PrometheusText {
 public:
  using Labels = std::vector<std::pair<std::string_view, std::string_view>>;

  // Begins a family; its samples follow. `type`: "counter", "gauge" or "histogram".
  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(const Labels& labels, double value);
  // In buckets of an octave.
  void histogram(const Labels& labels, const LatencyHistogram& histogram);

  const std::string& text() const { return text_; }

 private:
  void sample(std::string_view suffix, const Labels& labels, double value);

  std::string name_;
  std::string text_;
};

}  // namespace moba::server
