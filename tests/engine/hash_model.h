// A stand-in for a model whose "attention" is a hash: its cache, reached through block tables,
// holds for every token a hash of the whole sequence up to it, of the attention modes and of the
// centroids it may read. The next token is a function of that hash. So any fault of paging,
// sharing, copying or scheduling that a real model would turn into fluent nonsense changes the
// output here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/model_runner.h"
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

// What both the model and its reference compute.
struct HashModelMath {
  int moba_block_size;
  std::int32_t vocab_size;

  static std::uint64_t entry(std::uint64_t previous, std::int32_t token, std::uint64_t modes,
                             std::uint64_t centroid) {
    return mix(mix(mix(previous, static_cast<std::uint64_t>(token)), modes), centroid);
  }
  // Of the sample with that stream of random numbers.
  std::int32_t next_token(std::uint64_t last, std::uint32_t stream = 0) const {
    return static_cast<std::int32_t>(mix(last, 77 + stream) %
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
    std::vector<std::int32_t> tokens = prompt;
    std::vector<std::uint64_t> entries;
    std::vector<std::uint64_t> centroids;
    const std::size_t length = prompt.size() + static_cast<std::size_t>(count);
    while (tokens.size() < length || entries.size() < prompt.size()) {
      while (entries.size() < tokens.size()) {
        const std::size_t p = entries.size();
        entries.push_back(entry(p == 0 ? 0 : entries[p - 1], tokens[p],
                                modes_of(p < prompt.size() ? prefill_topk : decode_topk),
                                centroids.empty() ? 0 : centroids.back()));
        if (entries.size() % static_cast<std::size_t>(moba_block_size) == 0) {
          std::uint64_t sum = 0;
          for (std::size_t i = entries.size() - static_cast<std::size_t>(moba_block_size);
               i < entries.size(); ++i) {
            sum = mix(sum, entries[i]);
          }
          centroids.push_back(sum);
        }
      }
      if (tokens.size() < length) tokens.push_back(next_token(entries.back(), stream));
    }
    return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
  }
};

class HashRunner : public StepRunner {
 public:
  explicit HashRunner(const HashModelConfig& config)
      : config_(config),
        entries_(static_cast<std::size_t>(config.num_pages * config.block_size), kPoison),
        centroids_(static_cast<std::size_t>(config.num_pages), kPoison) {}

  // Called with each batch before it runs; may throw to make the step fail.
  std::function<void(const Batch&)> on_batch;
  // If set, the error of the sample of that sequence.
  std::function<std::string(const Sequence&)> sample_error;
  // Tokens computed so far.
  std::int64_t num_computed = 0;

  HashModelMath math() const { return {config_.moba_block_size, config_.vocab_size}; }

  StepResult& run(const Batch& batch) override {
    if (on_batch) on_batch(batch);
    result_ = StepResult();
    num_computed += batch.num_tokens;
    for (const PageCopy& copy : batch.page_copies) copy_page(copy);
    std::vector<std::uint64_t> hidden(static_cast<std::size_t>(batch.num_tokens));
    for (std::size_t s = 0; s < static_cast<std::size_t>(batch.num_seqs); ++s) {
      run_sequence(batch, s, hidden);
    }
    for (const SampleRow& row : batch.sample_rows) {
      StepResult::Sample sample;
      sample.token.token_id = math().next_token(hidden[static_cast<std::size_t>(row.row)],
                                                row.sequence->sampling.stream);
      if (sample_error) sample.error = sample_error(*row.sequence);
      result_.samples.push_back(std::move(sample));
    }
    for (const PromptLogprobRows& rows : batch.prompt_logprob_rows) {
      std::vector<TokenLogprob> logprobs;
      for (std::int64_t i = 0; i < rows.count; ++i) {
        TokenLogprob logprob;
        logprob.token_id = rows.sequence->tokens[static_cast<std::size_t>(rows.first_target + i)];
        logprob.logprob = static_cast<float>(rows.first_target + i);
        logprobs.push_back(logprob);
      }
      result_.prompt_logprobs.push_back(std::move(logprobs));
      result_.prompt_logprob_errors.emplace_back();
    }
    return result_;
  }

 private:
  static constexpr std::uint64_t kPoison = 0xDEADBEEFDEADBEEFU;

  void copy_page(const PageCopy& copy) {
    const std::int64_t size = config_.block_size;
    std::copy_n(entries_.begin() + copy.from * size, size, entries_.begin() + copy.to * size);
    centroids_[static_cast<std::size_t>(copy.to)] = centroids_[static_cast<std::size_t>(copy.from)];
  }

  void run_sequence(const Batch& batch, std::size_t s, std::vector<std::uint64_t>& hidden) {
    const std::int64_t block_size = config_.block_size;
    const std::int32_t* table =
        batch.block_tables.data() + s * static_cast<std::size_t>(batch.max_blocks_per_seq);
    const auto slot = [&](std::int64_t p) {
      return static_cast<std::size_t>(table[p / block_size] * block_size + p % block_size);
    };
    std::vector<std::int32_t> topk;
    for (std::size_t l = 0; l < static_cast<std::size_t>(config_.num_layers); ++l) {
      topk.push_back(batch.moba_topk[l * static_cast<std::size_t>(batch.num_seqs) + s]);
    }
    const std::uint64_t modes = HashModelMath::modes_of(topk);
    const std::int64_t pages_per_block = config_.moba_block_size / block_size;
    for (std::int32_t row = batch.cu_seqlens_q[s]; row < batch.cu_seqlens_q[s + 1]; ++row) {
      const auto r = static_cast<std::size_t>(row);
      const std::int64_t p = batch.positions[r];
      if (p != batch.seq_lens[s] - (batch.cu_seqlens_q[s + 1] - row)) {
        throw Error("positions and lengths of a batch do not fit");
      }
      if (static_cast<std::size_t>(batch.kv_write_plan.slot_mapping[r]) != slot(p)) {
        throw Error("slot mapping and block table do not fit");
      }
      const std::int64_t block = p / config_.moba_block_size;
      const std::uint64_t centroid =
          block == 0 ? 0 : centroids_[static_cast<std::size_t>(table[block * pages_per_block - 1])];
      const std::uint64_t entry = HashModelMath::entry(p == 0 ? 0 : entries_[slot(p - 1)],
                                                       batch.token_ids[r], modes, centroid);
      entries_[slot(p)] = entry;
      hidden[r] = entry;
      if ((p + 1) % config_.moba_block_size == 0) {
        std::uint64_t sum = 0;
        for (std::int64_t i = p + 1 - config_.moba_block_size; i <= p; ++i) {
          sum = mix(sum, entries_[slot(i)]);
        }
        centroids_[static_cast<std::size_t>(table[p / block_size])] = sum;
      }
    }
  }

  HashModelConfig config_;
  std::vector<std::uint64_t> entries_;
  std::vector<std::uint64_t> centroids_;
  StepResult result_;
};

}  // namespace moba
