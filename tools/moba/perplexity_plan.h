// Which tokens of a text are measured in which window, and the sums by position. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moba::cli {

// One run of the model over text tokens [begin, end), after a BOS token if the text has one. The
// tokens [first_scored, end) count; those before are context.
struct Window {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t first_scored = 0;
};

// Windows over `num_tokens` text tokens (BOS not counted) of at most `window` tokens (BOS counted).
// Each starts `stride` tokens after the one before; 0: as far as no token is measured twice. Every
// token that has one before it, BOS included, is scored in exactly one window. Throws
// std::invalid_argument if the numbers cannot be served.
std::vector<Window> plan_windows(std::int64_t num_tokens, bool has_bos, std::int64_t window,
                                 std::int64_t stride);

// Sums of negative log likelihoods, in all and by the position of the token in its window: [0, 1K),
// [1K, 2K), [2K, 4K), and on by doubling.
class NllSums {
 public:
  struct Bucket {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t num_tokens = 0;
    double nll = 0;
    double mean() const { return nll / static_cast<double>(num_tokens); }
    std::string name() const;  // "1K-2K"
  };

  // `position` >= 0 counts from the window's first token, BOS included.
  void add(std::int64_t position, double nll);

  std::int64_t num_tokens() const { return num_tokens_; }
  double nll() const { return nll_; }
  double mean() const { return nll_ / static_cast<double>(num_tokens_); }
  // Those that hold tokens, in order.
  std::vector<Bucket> buckets() const;

 private:
  std::vector<Bucket> buckets_;
  std::int64_t num_tokens_ = 0;
  double nll_ = 0;
};

}  // namespace moba::cli
