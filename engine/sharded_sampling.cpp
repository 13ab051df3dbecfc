#include "engine/sharded_sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "device/check.h"
#include "engine/logits_math.h"

namespace moba {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Rows that travel whole at a time: bounds the memory they take on every rank.
constexpr std::size_t kWholeRows = 8;

bool travels_whole(const SamplingState& state) {
  return !state.greedy() && (state.top_k == 0 || state.top_k > ShardedSampler::kMaxExchanged);
}

int num_candidates(const SamplingState& state) { return state.greedy() ? 1 : state.top_k; }

// Of two pieces, the first before the second in the vocabulary. Indices are of the vocabulary.
RowMax join(const RowMax& a, const RowMax& b) {
  RowMax result = b.value > a.value ? b : a;
  result.has_nan = a.has_nan || b.has_nan;
  return result;
}

// A view of bytes that travel. The sizes are multiples of 8.
TensorView words(std::byte* data, std::size_t bytes) {
  return {data, DType::kInt64, {static_cast<std::int64_t>(bytes / sizeof(std::int64_t))}};
}

}  // namespace

ShardedSampler::ShardedSampler(Communicator& group, ThreadPool& pool, const ShardPlan& shard,
                               std::int64_t vocab_size)
    : group_(group),
      pool_(pool),
      shard_(shard),
      vocab_size_(vocab_size),
      scratch_(static_cast<std::size_t>(pool.num_threads())) {}

void ShardedSampler::begin_messages(std::size_t rows, std::size_t num_candidates,
                                    std::size_t num_top) {
  num_candidates_ = num_candidates;
  num_top_ = num_top;
  const std::size_t bytes = sizeof(Header) + (num_candidates + num_top) * sizeof(Entry);
  message_bytes_ = (bytes + sizeof(std::int64_t) - 1) / sizeof(std::int64_t) * sizeof(std::int64_t);
  mine_.assign(rows * message_bytes_, std::byte{0});
  all_.resize(mine_.size() * static_cast<std::size_t>(group_.size()));
}

const std::byte* ShardedSampler::message_of(int rank, std::size_t row) const {
  return all_.data() + static_cast<std::size_t>(rank) * mine_.size() + row * message_bytes_;
}

void ShardedSampler::exchange_messages() {
  group_.all_gather(words(mine_.data(), mine_.size()), words(all_.data(), all_.size()));
}

// The piece as the model gave it: its part of the normaliser and the num_top largest.
void ShardedSampler::describe_original(std::span<const float> logits, int num_top, Scratch& scratch,
                                       std::byte* to) const {
  Header header{};
  std::memcpy(&header, to, sizeof(header));
  header.original = row_max(logits);
  if (header.original.value > kLowest && !header.original.has_nan) {
    header.original_exp_sum = std::exp(log_sum_exp(logits, header.original.value) -
                                       static_cast<double>(header.original.value));
  }
  std::memcpy(to, &header, sizeof(header));
  top_n(logits, num_top, scratch.top);
  Entry* const entries =
      reinterpret_cast<Entry*>(to + sizeof(Header) + num_candidates_ * sizeof(Entry));
  const auto first_id = static_cast<std::int32_t>(shard_.vocab.begin);
  for (std::size_t i = 0; i < num_top_; ++i) {
    entries[i] = i < scratch.top.size() ? Entry{scratch.top[i].first + first_id,
                                                scratch.top[i].second, scratch.top[i].second}
                                        : Entry{-1, 0, 0};
  }
}

// The piece as it is sampled from: its largest.
void ShardedSampler::describe_piece(std::span<float> logits, const SamplingState& state,
                                    Scratch& scratch, std::byte* to) const {
  const auto first_id = static_cast<std::int32_t>(shard_.vocab.begin);
  if (state.num_logprobs >= 0) describe_original(logits, state.num_logprobs, scratch, to);
  scratch.sampler.adjust_logits(logits, first_id, state);
  Header header{};
  std::memcpy(&header, to, sizeof(header));
  header.adjusted = row_max(logits);
  if (state.greedy()) {
    scratch.top.assign(1, {header.adjusted.index, header.adjusted.value});
  } else {
    top_n(logits, state.top_k, scratch.top);
  }
  header.adjusted.index += first_id;
  std::memcpy(to, &header, sizeof(header));
  Entry* const entries = reinterpret_cast<Entry*>(to + sizeof(Header));
  for (std::size_t i = 0; i < num_candidates_; ++i) {
    entries[i] = Entry{-1, 0, 0};
    if (i >= scratch.top.size()) continue;
    const std::int32_t id = scratch.top[i].first + first_id;
    entries[i] = {id, scratch.top[i].second, scratch.sampler.original_logit(logits, first_id, id)};
  }
}

// The logarithm of the sum over the vocabulary of e^logit.
double ShardedSampler::merge_original(std::size_t row, const char* what) const {
  RowMax max;
  max.value = kLowest;
  const auto header_of = [&](int rank) {
    Header header;
    std::memcpy(&header, message_of(rank, row), sizeof(header));
    return header;
  };
  for (int rank = 0; rank < group_.size(); ++rank) max = join(max, header_of(rank).original);
  check_row(max, what);
  double sum = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    const Header header = header_of(rank);
    if (header.original.value == kLowest) continue;
    sum += header.original_exp_sum *
           std::exp(static_cast<double>(header.original.value) - static_cast<double>(max.value));
  }
  return static_cast<double>(max.value) + std::log(sum);
}

void ShardedSampler::merge_top(std::size_t row, int num_top, double normaliser, Scratch& scratch,
                               TokenLogprob& logprob) const {
  if (num_top <= 0) return;
  scratch.top.clear();
  for (int rank = 0; rank < group_.size(); ++rank) {
    const auto* const entries = reinterpret_cast<const Entry*>(
        message_of(rank, row) + sizeof(Header) + num_candidates_ * sizeof(Entry));
    for (std::size_t i = 0; i < num_top_ && entries[i].id >= 0; ++i) {
      scratch.top.emplace_back(entries[i].id, entries[i].logit);
    }
  }
  sort_by_logit(scratch.top, num_top);
  logprob.top.reserve(scratch.top.size());
  for (const auto& [id, logit] : scratch.top) {
    logprob.top.emplace_back(id, static_cast<float>(static_cast<double>(logit) - normaliser));
  }
}

SampledToken ShardedSampler::merge_sample(std::size_t row, const SampleRow& sample,
                                          Scratch& scratch) const {
  const SamplingState& state = sample.sequence->sampling;
  SampledToken result;
  result.has_logprob = state.num_logprobs >= 0;
  double normaliser = 0;
  if (result.has_logprob) {
    normaliser = merge_original(row, "log probabilities");
    merge_top(row, state.num_logprobs, normaliser, scratch, result.logprob);
  }
  RowMax max;
  max.value = kLowest;
  scratch.entries.clear();
  for (int rank = 0; rank < group_.size(); ++rank) {
    Header header;
    std::memcpy(&header, message_of(rank, row), sizeof(header));
    max = join(max, header.adjusted);
    const auto* const entries =
        reinterpret_cast<const Entry*>(message_of(rank, row) + sizeof(Header));
    for (std::size_t i = 0; i < num_candidates_ && entries[i].id >= 0; ++i) {
      scratch.entries.push_back(entries[i]);
    }
  }
  check_row(max, "sampling");
  check_any_allowed(max, vocab_size_);
  if (state.greedy()) {
    result.token_id = max.index;
  } else {
    scratch.top.clear();
    for (const Entry& entry : scratch.entries) scratch.top.emplace_back(entry.id, entry.logit);
    sort_by_logit(scratch.top, state.top_k);
    result.token_id = scratch.sampler.draw_from_top(scratch.top, state, sample.position);
  }
  if (result.has_logprob) {
    const auto chosen =
        std::find_if(scratch.entries.begin(), scratch.entries.end(),
                     [&](const Entry& entry) { return entry.id == result.token_id; });
    result.logprob.token_id = result.token_id;
    result.logprob.logprob = static_cast<float>(static_cast<double>(chosen->original) - normaliser);
  }
  return result;
}

void ShardedSampler::sample(std::span<const SampleRow> rows, float* logits,
                            const TakeSample& take) {
  const auto piece = static_cast<std::size_t>(shard_.vocab.size());
  exchanged_.clear();
  whole_.clear();
  int most_candidates = 0;
  int most_top = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const SamplingState& state = rows[i].sequence->sampling;
    if (travels_whole(state)) {
      whole_.push_back(i);
      continue;
    }
    exchanged_.push_back(i);
    most_candidates = std::max(most_candidates, num_candidates(state));
    most_top = std::max(most_top, state.num_logprobs);
  }
  if (!exchanged_.empty()) {
    begin_messages(exchanged_.size(), static_cast<std::size_t>(most_candidates),
                   static_cast<std::size_t>(most_top));
    const auto count = static_cast<std::int64_t>(exchanged_.size());
    pool_.parallel_for(count, [&](std::int64_t i, int thread) {
      const std::size_t row = exchanged_[static_cast<std::size_t>(i)];
      describe_piece({logits + row * piece, piece}, rows[row].sequence->sampling,
                     scratch_[static_cast<std::size_t>(thread)],
                     message(static_cast<std::size_t>(i)));
    });
    exchange_messages();
    if (group_.rank() == 0) {
      pool_.parallel_for(count, [&](std::int64_t i, int thread) {
        const std::size_t row = exchanged_[static_cast<std::size_t>(i)];
        try {
          take(row,
               merge_sample(static_cast<std::size_t>(i), rows[row],
                            scratch_[static_cast<std::size_t>(thread)]),
               {});
        } catch (const Error& error) {
          take(row, {}, error.what());
        }
      });
    }
  }
  for (std::size_t first = 0; first < whole_.size(); first += kWholeRows) {
    const std::size_t count = std::min(kWholeRows, whole_.size() - first);
    sample_whole_rows(rows, std::span(whole_).subspan(first, count), logits, take);
  }
}

void ShardedSampler::sample_whole_rows(std::span<const SampleRow> rows,
                                       std::span<const std::size_t> which, const float* logits,
                                       const TakeSample& take) {
  const auto piece = static_cast<std::size_t>(shard_.vocab.size());
  const auto stride = static_cast<std::size_t>(shard_.vocab_stride);
  const auto ranks = static_cast<std::size_t>(group_.size());
  my_pieces_.resize(which.size() * stride);
  all_pieces_.resize(ranks * my_pieces_.size());
  for (std::size_t i = 0; i < which.size(); ++i) {
    std::memcpy(my_pieces_.data() + i * stride, logits + which[i] * piece, piece * sizeof(float));
  }
  const auto view = [](std::vector<float>& values) {
    return TensorView(values.data(), DType::kFloat32, {static_cast<std::int64_t>(values.size())});
  };
  group_.all_gather(view(my_pieces_), view(all_pieces_));
  if (group_.rank() != 0) return;
  pool_.parallel_for(static_cast<std::int64_t>(which.size()), [&](std::int64_t index, int thread) {
    const auto i = static_cast<std::size_t>(index);
    const SampleRow& sample = rows[which[i]];
    Scratch& scratch = scratch_[static_cast<std::size_t>(thread)];
    scratch.row.resize(ranks * stride);
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      std::memcpy(scratch.row.data() + rank * stride,
                  all_pieces_.data() + (rank * which.size() + i) * stride, stride * sizeof(float));
    }
    try {
      take(which[i],
           scratch.sampler.sample({scratch.row.data(), static_cast<std::size_t>(vocab_size_)},
                                  sample.sequence->sampling, sample.position),
           {});
    } catch (const Error& error) {
      take(which[i], {}, error.what());
    }
  });
}

void ShardedSampler::prompt_logprobs(const float* logits, std::span<const std::int32_t> targets,
                                     int num_top, const TakeLogprob& take) {
  const auto piece = static_cast<std::size_t>(shard_.vocab.size());
  const auto count = static_cast<std::int64_t>(targets.size());
  const auto target_of = [&](std::int64_t i) { return targets[static_cast<std::size_t>(i)]; };
  begin_messages(static_cast<std::size_t>(count), 0, static_cast<std::size_t>(num_top));
  pool_.parallel_for(count, [&](std::int64_t i, int thread) {
    const std::span<const float> row(logits + static_cast<std::size_t>(i) * piece, piece);
    std::byte* const to = message(static_cast<std::size_t>(i));
    describe_original(row, num_top, scratch_[static_cast<std::size_t>(thread)], to);
    const std::int64_t target = target_of(i) - shard_.vocab.begin;
    if (target < 0 || target >= shard_.vocab.size()) return;
    Header header;
    std::memcpy(&header, to, sizeof(header));
    header.target = row[static_cast<std::size_t>(target)];
    std::memcpy(to, &header, sizeof(header));
  });
  exchange_messages();
  pool_.parallel_for(count, [&](std::int64_t i, int thread) {
    const auto row = static_cast<std::size_t>(i);
    TokenLogprob result;
    try {
      const double normaliser = merge_original(row, "log probabilities");
      const std::int32_t target = target_of(i);
      Header header;
      std::memcpy(&header, message_of(static_cast<int>(target / shard_.vocab_stride), row),
                  sizeof(header));
      result.token_id = target;
      result.logprob = static_cast<float>(static_cast<double>(header.target) - normaliser);
      merge_top(row, num_top, normaliser, scratch_[static_cast<std::size_t>(thread)], result);
      take(row, std::move(result), {});
    } catch (const Error& error) {
      take(row, {}, error.what());
    }
  });
}

}  // namespace moba
