// Passes over a row of logits, written so that compilers vectorise them. Pure; results depend on
// the values only.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moba {

// e^x for x <= 0 (NaN stays NaN), relative error below 2e-7; 0 below -87.
float exp_nonpositive(float x);

struct RowMax {
  float value = 0;         // of the numbers; -infinity for a row without any above it
  std::int32_t index = 0;  // the smallest that has it
  bool has_nan = false;
};
RowMax row_max(std::span<const float> row);

// weights[i] = e^((row[i] - max) * scale), scale > 0, as float32; returns their sum in float64.
// A difference of infinite or overflowing size gives 0 (and 1 for the maximum itself).
double exp_weights(std::span<const float> row, float max, float scale, std::span<float> weights);

// ln sum_i e^row[i] in float64; `max` is the row's maximum.
double log_sum_exp(std::span<const float> row, float max);

// The n largest (or all, if fewer) as (index, value), largest first, of equal ones the smaller
// index first. NaN is never among them. `top` is overwritten; its capacity is reused.
void top_n(std::span<const float> row, int n, std::vector<std::pair<std::int32_t, float>>& top);

// Keeps the n first of (index, value) in that same order.
void sort_by_logit(std::vector<std::pair<std::int32_t, float>>& entries, int n);

}  // namespace moba
