#include "engine/batch_wire.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "device/check.h"

namespace moba {
namespace {

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& bytes) : bytes_(bytes) { bytes_.clear(); }

  template <typename T>
  void value(const T& x) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* data = reinterpret_cast<const std::byte*>(&x);
    bytes_.insert(bytes_.end(), data, data + sizeof(T));
  }
  template <typename T>
  void list(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    value<std::uint64_t>(values.size());
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    bytes_.insert(bytes_.end(), data, data + values.size_bytes());
  }
  template <typename T>
  void list(const std::vector<T>& values) {
    list(std::span<const T>(values));
  }

 private:
  std::vector<std::byte>& bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
  void value(T& x) {
    std::memcpy(&x, take(sizeof(T)), sizeof(T));
  }
  template <typename T>
  T value() {
    T x{};
    value(x);
    return x;
  }
  template <typename T>
  void list(std::vector<T>& values) {
    const auto count = value<std::uint64_t>();
    MOBA_CHECK(count <= rest_.size() / sizeof(T), "a step's message is cut short");
    values.resize(count);
    const std::byte* const data = take(count * sizeof(T));
    if (count > 0) std::memcpy(values.data(), data, count * sizeof(T));
  }
  bool at_end() const { return rest_.empty(); }

 private:
  const std::byte* take(std::size_t size) {
    MOBA_CHECK(size <= rest_.size(), "a step's message is cut short");
    const std::byte* const data = rest_.data();
    rest_ = rest_.subspan(size);
    return data;
  }

  std::span<const std::byte> rest_;
};

// Goes through the plain fields, by either of the two.
template <typename Field, typename State>
void sampling_fields(Field&& field, State& state) {
  field(state.temperature);
  field(state.top_k);
  field(state.top_p);
  field(state.min_p);
  field(state.repetition_penalty);
  field(state.presence_penalty);
  field(state.frequency_penalty);
  field(state.seed);
  field(state.stream);
  field(state.num_logprobs);
  field(state.min_tokens);
  field(state.num_output_tokens);
}

struct Bias {
  std::int32_t id;
  float value;
};

void write_sampling(Writer& out, const SamplingState& state) {
  sampling_fields([&](const auto& x) { out.value(x); }, state);
  std::vector<Bias> biases;
  for (const auto& [id, value] : state.logit_bias) biases.push_back({id, value});
  out.list(biases);
  out.list(state.forbidden_before_min_tokens);
  out.list(state.counts.entries());
}

void read_sampling(Reader& in, std::int64_t vocab_size, SamplingState& state) {
  sampling_fields([&](auto& x) { in.value(x); }, state);
  std::vector<Bias> biases;
  in.list(biases);
  for (const Bias& bias : biases) state.logit_bias.emplace_back(bias.id, bias.value);
  in.list(state.forbidden_before_min_tokens);
  std::vector<TokenCounts::Entry> entries;
  in.list(entries);
  if (entries.empty()) return;
  state.counts.resize(vocab_size);
  for (const TokenCounts::Entry& entry : entries) {
    MOBA_CHECK(entry.token_id >= 0 && entry.token_id < vocab_size, "a step's message counts token ",
               entry.token_id);
    state.counts.restore(entry);
  }
}

}  // namespace

void encode_batch(const Batch& batch, std::vector<std::byte>& bytes) {
  Writer out(bytes);
  out.value(batch.num_tokens);
  out.value(batch.num_seqs);
  out.value(batch.max_blocks_per_seq);
  out.list(batch.token_ids);
  out.list(batch.positions);
  out.list(batch.cu_seqlens_q);
  out.list(batch.seq_lens);
  out.list(batch.block_tables);
  out.list(batch.moba_topk);
  out.list(batch.kv_write_plan.slot_mapping);
  out.list(batch.kv_write_plan.completed_blocks);
  out.list(batch.page_copies);
  out.value<std::uint64_t>(batch.sample_rows.size());
  for (const SampleRow& row : batch.sample_rows) {
    out.value(row.row);
    out.value(row.position);
    write_sampling(out, row.sequence->sampling);
  }
  out.value<std::uint64_t>(batch.prompt_logprob_rows.size());
  for (const PromptLogprobRows& rows : batch.prompt_logprob_rows) {
    out.value(rows.row);
    out.value(rows.first_target);
    out.value(rows.sequence->num_top_prompt_logprobs);
    out.list(std::span<const std::int32_t>(rows.sequence->tokens)
                 .subspan(static_cast<std::size_t>(rows.first_target),
                          static_cast<std::size_t>(rows.count)));
  }
}

void decode_batch(std::span<const std::byte> bytes, std::int64_t vocab_size,
                  ReceivedBatch& result) {
  Reader in(bytes);
  Batch& batch = result.batch;
  result.sequences.clear();
  in.value(batch.num_tokens);
  in.value(batch.num_seqs);
  in.value(batch.max_blocks_per_seq);
  in.list(batch.token_ids);
  in.list(batch.positions);
  in.list(batch.cu_seqlens_q);
  in.list(batch.seq_lens);
  in.list(batch.block_tables);
  in.list(batch.moba_topk);
  in.list(batch.kv_write_plan.slot_mapping);
  in.list(batch.kv_write_plan.completed_blocks);
  in.list(batch.page_copies);
  batch.sample_rows.clear();
  for (auto left = in.value<std::uint64_t>(); left > 0; --left) {
    Sequence& sequence = *result.sequences.emplace_back(std::make_unique<Sequence>());
    SampleRow row;
    in.value(row.row);
    in.value(row.position);
    row.sequence = &sequence;
    read_sampling(in, vocab_size, sequence.sampling);
    batch.sample_rows.push_back(row);
  }
  batch.prompt_logprob_rows.clear();
  for (auto left = in.value<std::uint64_t>(); left > 0; --left) {
    Sequence& sequence = *result.sequences.emplace_back(std::make_unique<Sequence>());
    PromptLogprobRows rows;
    in.value(rows.row);
    in.value(rows.first_target);
    in.value(sequence.num_top_prompt_logprobs);
    // Counted from the first that is wanted: what lies before it is not read.
    in.list(sequence.tokens);
    rows.count = static_cast<std::int64_t>(sequence.tokens.size());
    rows.first_target = 0;
    rows.sequence = &sequence;
    batch.prompt_logprob_rows.push_back(rows);
  }
  MOBA_CHECK(in.at_end(), "a step's message has more than a batch");
}

}  // namespace moba
