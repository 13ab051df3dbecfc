#include "tools/moba/perplexity_plan.h"

#include <algorithm>
#include <stdexcept>

namespace moba::cli {
namespace {

constexpr std::int64_t kFirstBucket = 1024;

}  // namespace

std::vector<Window> plan_windows(std::int64_t num_tokens, bool has_bos, std::int64_t window,
                                 std::int64_t stride) {
  const std::int64_t bos = has_bos ? 1 : 0;
  if (num_tokens + bos < 2) {
    throw std::invalid_argument("the text has " + std::to_string(num_tokens + bos) +
                                " token(s), at least 2 are needed");
  }
  if (window < 2) {
    throw std::invalid_argument("a window of " + std::to_string(window) +
                                " tokens measures nothing, at least 2 are needed");
  }
  // Without BOS the first token of a window is not measured there, so windows overlap by one.
  const std::int64_t room = window - bos;  // text tokens of a window
  const std::int64_t longest = window - 1;
  if (stride == 0) stride = longest;
  if (stride < 1 || stride > longest) {
    throw std::invalid_argument("a stride of " + std::to_string(stride) +
                                " is not within 1 and the window less one, " +
                                std::to_string(longest));
  }
  std::vector<Window> windows;
  std::int64_t scored = 1 - bos;  // tokens before this one are done
  for (std::int64_t begin = 0; scored < num_tokens; begin += stride) {
    const std::int64_t end = std::min(begin + room, num_tokens);
    windows.push_back({begin, end, scored});
    scored = end;
  }
  return windows;
}

std::string NllSums::Bucket::name() const {
  const auto label = [](std::int64_t position) {
    return position == 0 ? std::string("0") : std::to_string(position / 1024) + "K";
  };
  return label(begin) + "-" + label(end);
}

void NllSums::add(std::int64_t position, double nll) {
  std::size_t index = 0;
  for (std::int64_t end = kFirstBucket; position >= end; end *= 2) ++index;
  while (buckets_.size() <= index) {
    const std::int64_t begin = buckets_.empty() ? 0 : buckets_.back().end;
    buckets_.push_back({begin, begin == 0 ? kFirstBucket : begin * 2, 0, 0});
  }
  buckets_[index].num_tokens += 1;
  buckets_[index].nll += nll;
  num_tokens_ += 1;
  nll_ += nll;
}

std::vector<NllSums::Bucket> NllSums::buckets() const {
  std::vector<Bucket> filled;
  for (const Bucket& bucket : buckets_) {
    if (bucket.num_tokens > 0) filled.push_back(bucket);
  }
  return filled;
}

}  // namespace moba::cli
