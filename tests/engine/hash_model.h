// A stand-in for a model whose "attention" is a hash: for every token it reads the stored entries
// of all tokens before it and the centroids of all MoBA blocks before its own, through the block
// table, and stores an entry that depends on all of them, on the token and on the attention modes.
// The next token is a function of everything stored up to there. So any fault of paging, sharing,
// copying or scheduling that a real model would turn into fluent nonsense, wherever in the
// sequence, changes the output here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace moba {

// Token ids are bytes; 256 is the end of a sequence, 257 and 258 have no text and a name.
class ByteTokenizer : public Tokenizer {
 public:
  static constexpr std::int32_t kEos = 256;
  static constexpr std::int32_t kVocabSize = 259;

  std::vector<TokenId> encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(const std::vector<TokenId>& ids, bool skip) const override {
    std::string text;
    for (const TokenId id : ids) text += token_bytes(id, skip);
    return text;
  }
  std::string token_bytes(TokenId id, bool) const override {
    if (id < 0 || id >= kVocabSize) throw std::out_of_range(concat("token ", id));
    return id < 256 ? std::string(1, static_cast<char>(id)) : std::string();
  }
  std::string token_name(TokenId id) const override { return concat("<", id, ">"); }
  std::optional<TokenId> token_id(std::string_view) const override { return std::nullopt; }
  bool is_special(TokenId id) const override { return id >= 256; }
  std::int32_t vocab_size() const override { return kVocabSize; }
  LeadingSpace leading_space() const override { return LeadingSpace::kKeep; }
  std::optional<TokenId> bos_id() const override { return std::nullopt; }
  std::optional<TokenId> eos_id() const override { return kEos; }
};

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15U + b + 0x632BE59BD9B4E019U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

struct HashModelConfig {
  int num_layers = 2;
  int block_size = 4;
  int moba_block_size = 8;
  std::int64_t num_pages = 0;
  std::int32_t vocab_size = ByteTokenizer::kVocabSize;
};

// What both the model and its reference compute. A context is a hash of what a query reads.
struct HashModelMath {
  int moba_block_size;
  std::int32_t vocab_size;

  // Of the entries so far, in order, or of the centroids.
  static std::uint64_t extend(std::uint64_t context, std::uint64_t read) {
    return mix(context, read);
  }
  static std::uint64_t entry(std::uint64_t entries, std::uint64_t centroids, std::int32_t token,
                             std::uint64_t modes) {
    return mix(mix(mix(entries, centroids), static_cast<std::uint64_t>(token)), modes);
  }
  // Of the sample with that stream of random numbers; the contexts include the last token.
  std::int32_t next_token(std::uint64_t entries, std::uint64_t centroids,
                          std::uint32_t stream = 0) const {
    return static_cast<std::int32_t>(mix(mix(entries, centroids), 77 + stream) %
                                     static_cast<std::uint64_t>(vocab_size));
  }
  static std::uint64_t modes_of(const std::vector<std::int32_t>& topk) {
    std::uint64_t modes = 1;
    for (const std::int32_t k : topk) modes = mix(modes, static_cast<std::uint64_t>(k));
    return modes;
  }

  // Greedy tokens of a sequence by itself.
  std::vector<std::int32_t> generate(const std::vector<std::int32_t>& prompt, std::int64_t count,
                                     const std::vector<std::int32_t>& prefill_topk,
                                     const std::vector<std::int32_t>& decode_topk,
                                     std::uint32_t stream = 0) const {
    const std::uint64_t prefill = modes_of(prefill_topk);
    const std::uint64_t decode = modes_of(decode_topk);
    const auto block = static_cast<std::size_t>(moba_block_size);
    std::vector<std::int32_t> tokens = prompt;
    std::uint64_t entries = 0;    // context of all tokens computed
    std::uint64_t centroids = 0;  // of all whole blocks before the next token's
    std::uint64_t centroid = 0;   // of the block that is filling
    const std::size_t length = prompt.size() + static_cast<std::size_t>(count);
    for (std::size_t p = 0; p < tokens.size(); ++p) {
      if (p == length - 1 && count > 0) break;  // the last token is not computed
      if (p > 0 && p % block == 0) {
        centroids = extend(centroids, centroid);
        centroid = 0;
      }
      const std::uint64_t e =
          entry(entries, centroids, tokens[p], p < prompt.size() ? prefill : decode);
      entries = extend(entries, e);
      centroid = mix(centroid, e);
      if (p + 1 == tokens.size() && tokens.size() < length) {
        tokens.push_back(next_token(entries, centroids, stream));
      }
    }
    return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
  }
};

// Computes on the spot, or, with asynchronous steps, when the result is collected, or meanwhile on
// a thread of its own.
class HashRunner : public StepRunner {
 public:
  enum class Steps { kSynchronous, kWhenCollected, kOnThread };

  explicit HashRunner(const HashModelConfig& config, Steps steps = Steps::kSynchronous)
      : config_(config),
        steps_(steps),
        entries_(static_cast<std::size_t>(config.num_pages * config.block_size), kPoison),
        centroids_(static_cast<std::size_t>(config.num_pages), kPoison) {}

  // Called with each batch when it is launched; may throw to make the step fail.
  std::function<void(const Batch&)> on_batch;
  // If set, the error of the sample of that sequence.
  std::function<std::string(const Sequence&)> sample_error;
  // Asynchronous: how many steps to go until one fails after its launch; negative: none.
  int steps_to_failure = -1;
  // Tokens computed so far.
  std::int64_t num_computed = 0;

  HashModelMath math() const { return {config_.moba_block_size, config_.vocab_size}; }

  StepResult& run(const Batch& batch) override {
    result_ = compute(start(batch));
    return result_;
  }
  bool is_asynchronous() const override { return steps_ != Steps::kSynchronous; }
  void launch(const Batch& batch) override {
    if (!is_asynchronous()) return StepRunner::launch(batch);
    if (under_way_.size() > 1) throw std::logic_error("a third step under way");
    Step step = start(batch);
    if (steps_ == Steps::kWhenCollected) {
      under_way_.push_back(std::async(
          std::launch::deferred, [this, s = std::move(step)]() mutable { return compute(s); }));
    } else {
      const std::shared_ptr<std::future<void>> before = std::move(last_done_);
      auto done = std::make_shared<std::promise<void>>();
      last_done_ = std::make_shared<std::future<void>>(done->get_future());
      under_way_.push_back(
          std::async(std::launch::async, [this, s = std::move(step), before, done]() mutable {
            if (before != nullptr) before->wait();
            StepResult result = compute(s);
            done->set_value();
            return result;
          }));
    }
  }
  StepResult& collect() override {
    if (!is_asynchronous()) return StepRunner::collect();
    std::future<StepResult> first = std::move(under_way_.front());
    under_way_.pop_front();
    result_ = first.get();
    if (steps_to_failure >= 0 && steps_to_failure-- == 0) throw Error("the device is gone");
    return result_;
  }

 private:
  static constexpr std::uint64_t kPoison = 0xDEADBEEFDEADBEEFU;

  // A batch and what its launch takes from the sequences.
  struct Step {
    const Batch* batch;
    std::vector<std::uint32_t> streams;
    std::vector<std::string> errors;
    std::vector<std::vector<std::int32_t>> targets;  // of prompt_logprob_rows
  };

  Step start(const Batch& batch) {
    if (on_batch) on_batch(batch);
    num_computed += batch.num_tokens;
    Step step{&batch, {}, {}, {}};
    for (const SampleRow& row : batch.sample_rows) {
      step.streams.push_back(row.sequence->sampling.stream);
      step.errors.push_back(sample_error ? sample_error(*row.sequence) : "");
    }
    for (const PromptLogprobRows& rows : batch.prompt_logprob_rows) {
      const auto first =
          rows.sequence->tokens.begin() + static_cast<std::ptrdiff_t>(rows.first_target);
      step.targets.emplace_back(first, first + static_cast<std::ptrdiff_t>(rows.count));
    }
    return step;
  }

  StepResult compute(const Step& step) {
    const Batch& batch = *step.batch;
    StepResult result;
    for (const PageCopy& copy : batch.page_copies) copy_page(copy);
    hidden_.assign(static_cast<std::size_t>(batch.num_tokens), {});
    for (std::size_t s = 0; s < static_cast<std::size_t>(batch.num_seqs); ++s) {
      run_sequence(batch, s);
    }
    sampled_.clear();
    for (std::size_t i = 0; i < batch.sample_rows.size(); ++i) {
      const auto& [entries, centroids] =
          hidden_[static_cast<std::size_t>(batch.sample_rows[i].row)];
      StepResult::Sample sample;
      sample.token.token_id = math().next_token(entries, centroids, step.streams[i]);
      sample.error = step.errors[i];
      sampled_.push_back(sample.token.token_id);
      result.samples.push_back(std::move(sample));
    }
    for (std::size_t i = 0; i < batch.prompt_logprob_rows.size(); ++i) {
      std::vector<TokenLogprob> logprobs;
      std::int64_t target = batch.prompt_logprob_rows[i].first_target;
      for (const std::int32_t token : step.targets[i]) {
        logprobs.push_back({token, static_cast<float>(target++), {}});
      }
      result.prompt_logprobs.push_back(std::move(logprobs));
      result.prompt_logprob_errors.emplace_back();
    }
    return result;
  }

  void copy_page(const PageCopy& copy) {
    const std::int64_t size = config_.block_size;
    std::copy_n(entries_.begin() + copy.from * size, size, entries_.begin() + copy.to * size);
    centroids_[static_cast<std::size_t>(copy.to)] = centroids_[static_cast<std::size_t>(copy.from)];
  }

  std::int32_t token_at(const Batch& batch, std::size_t row) const {
    const std::int32_t source = batch.token_sources.empty() ? -1 : batch.token_sources[row];
    return source < 0 ? batch.token_ids[row] : sampled_.at(static_cast<std::size_t>(source));
  }

  void run_sequence(const Batch& batch, std::size_t s) {
    const std::int64_t block_size = config_.block_size;
    const std::int64_t moba_block_size = config_.moba_block_size;
    const std::int32_t* table =
        batch.block_tables.data() + s * static_cast<std::size_t>(batch.max_blocks_per_seq);
    const auto slot = [&](std::int64_t p) {
      return static_cast<std::size_t>(table[p / block_size] * block_size + p % block_size);
    };
    // The slot of a MoBA block's centroid: that of its last page.
    const auto centroid = [&](std::int64_t block) -> std::uint64_t& {
      const std::int64_t last = (block + 1) * moba_block_size / block_size - 1;
      return centroids_[static_cast<std::size_t>(table[last])];
    };
    std::vector<std::int32_t> topk;
    for (std::size_t l = 0; l < static_cast<std::size_t>(config_.num_layers); ++l) {
      topk.push_back(batch.moba_topk[l * static_cast<std::size_t>(batch.num_seqs) + s]);
    }
    const std::uint64_t modes = HashModelMath::modes_of(topk);
    const std::int64_t first =
        batch.seq_lens[s] - (batch.cu_seqlens_q[s + 1] - batch.cu_seqlens_q[s]);
    std::uint64_t entries = 0;
    for (std::int64_t p = 0; p < first; ++p) {
      entries = HashModelMath::extend(entries, entries_[slot(p)]);
    }
    std::uint64_t centroids = 0;
    std::int64_t num_blocks = 0;  // in `centroids`
    for (std::int32_t row = batch.cu_seqlens_q[s]; row < batch.cu_seqlens_q[s + 1]; ++row) {
      const auto r = static_cast<std::size_t>(row);
      const std::int64_t p = batch.positions[r];
      if (p != first + (row - batch.cu_seqlens_q[s])) {
        throw Error("positions and lengths of a batch do not fit");
      }
      if (static_cast<std::size_t>(batch.kv_write_plan.slot_mapping[r]) != slot(p)) {
        throw Error("slot mapping and block table do not fit");
      }
      for (; num_blocks < p / moba_block_size; ++num_blocks) {
        centroids = HashModelMath::extend(centroids, centroid(num_blocks));
      }
      const std::uint64_t e = HashModelMath::entry(entries, centroids, token_at(batch, r), modes);
      entries_[slot(p)] = e;
      entries = HashModelMath::extend(entries, entries_[slot(p)]);
      hidden_[r] = {entries, centroids};
      if ((p + 1) % moba_block_size == 0) {
        std::uint64_t sum = 0;
        for (std::int64_t i = p + 1 - moba_block_size; i <= p; ++i)
          sum = mix(sum, entries_[slot(i)]);
        centroid(p / moba_block_size) = sum;
      }
    }
  }

  HashModelConfig config_;
  Steps steps_;
  std::vector<std::uint64_t> entries_;
  std::vector<std::uint64_t> centroids_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> hidden_;  // contexts after each row
  std::vector<std::int32_t> sampled_;                            // by the last step
  StepResult result_;
  std::deque<std::future<StepResult>> under_way_;
  std::shared_ptr<std::future<void>> last_done_;
};

}  // namespace moba
