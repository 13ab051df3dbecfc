#include <string>

#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"

namespace moba::c_api {

LogprobList::LogprobList(const std::vector<TokenLogprob>& list) { add(list.data(), list.size()); }
LogprobList::LogprobList(const TokenLogprob& logprob) { add(&logprob, 1); }

void LogprobList::add(const TokenLogprob* first, std::size_t count) {
  std::size_t num_tops = 0;
  for (std::size_t i = 0; i < count; ++i) num_tops += first[i].top.size();
  tops_.reserve(num_tops);
  items_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const TokenLogprob& from = first[i];
    // Does not move any more: the room is there.
    items_.push_back({from.token_id, from.logprob, from.top.size(), tops_.data() + tops_.size()});
    for (const auto& [id, logprob] : from.top) tops_.push_back({id, logprob});
  }
}

}  // namespace moba::c_api

namespace {

using moba::RequestOutput;
using moba::StatusCode;
using moba::StatusError;
using moba::c_api::guarded;
using moba::c_api::LogprobList;
using moba::c_api::require;

void check_index(size_t index, size_t size, const char* name) {
  if (index < size) return;
  throw StatusError(StatusCode::kInvalidArgument, std::string(name) + " is " +
                                                      std::to_string(index) + ", and there are " +
                                                      std::to_string(size));
}

// The fields that the first sample has in common with the others.
struct SampleView {
  const std::vector<std::int32_t>& token_ids;
  const std::string& text;
  moba::FinishReason finish_reason;
  const std::string& stop_reason;
};

SampleView sample_of(const moba_output* output, size_t sample) {
  require(output, "output");
  const RequestOutput& first = *output->output;
  check_index(sample, first.more_samples.size() + 1, "sample");
  if (sample == 0) return {first.token_ids, first.text, first.finish_reason, first.stop_reason};
  const moba::SampleOutput& other = first.more_samples[sample - 1];
  return {other.token_ids, other.text, other.finish_reason, other.stop_reason};
}

void make_logprobs(const moba_output& output) {
  std::call_once(output.logprobs_made, [&] {
    const RequestOutput& from = *output.output;
    output.logprobs.push_back(std::make_unique<LogprobList>(from.logprobs));
    for (const moba::SampleOutput& sample : from.more_samples) {
      output.logprobs.push_back(std::make_unique<LogprobList>(sample.logprobs));
    }
    output.prompt_logprobs = std::make_unique<LogprobList>(from.prompt_logprobs);
  });
}

const LogprobList& logprobs_of(const moba_output* output, size_t sample) {
  require(output, "output");
  check_index(sample, output->output->more_samples.size() + 1, "sample");
  make_logprobs(*output);
  return *output->logprobs[sample];
}

moba_status give_logprob(const LogprobList& list, size_t index, const moba_logprob** logprob) {
  require(logprob, "logprob");
  check_index(index, list.items().size(), "index");
  *logprob = &list.items()[index];
  return MOBA_OK;
}

}  // namespace

void moba_output_destroy(moba_output* output) { delete output; }

moba_status moba_output_num_samples(const moba_output* output, size_t* num_samples) {
  return guarded([&] {
    require(output, "output");
    require(num_samples, "num_samples");
    *num_samples = output->output->more_samples.size() + 1;
    return MOBA_OK;
  });
}

moba_status moba_output_text(const moba_output* output, size_t sample, const char** text,
                             size_t* length) {
  return guarded([&] {
    require(text, "text");
    const SampleView view = sample_of(output, sample);
    *text = view.text.c_str();
    if (length != nullptr) *length = view.text.size();
    return MOBA_OK;
  });
}

moba_status moba_output_token_ids(const moba_output* output, size_t sample, const int32_t** ids,
                                  size_t* num_ids) {
  return guarded([&] {
    require(ids, "ids");
    require(num_ids, "num_ids");
    const SampleView view = sample_of(output, sample);
    *ids = view.token_ids.data();
    *num_ids = view.token_ids.size();
    return MOBA_OK;
  });
}

moba_status moba_output_finish_reason(const moba_output* output, size_t sample, int32_t* reason) {
  return guarded([&] {
    require(reason, "reason");
    switch (sample_of(output, sample).finish_reason) {
      case moba::FinishReason::kNone:
        *reason = MOBA_FINISH_NONE;
        break;
      case moba::FinishReason::kStop:
        *reason = MOBA_FINISH_STOP;
        break;
      case moba::FinishReason::kLength:
        *reason = MOBA_FINISH_LENGTH;
        break;
      case moba::FinishReason::kCancelled:
        *reason = MOBA_FINISH_CANCELLED;
        break;
    }
    return MOBA_OK;
  });
}

moba_status moba_output_stop_reason(const moba_output* output, size_t sample, const char** reason) {
  return guarded([&] {
    require(reason, "reason");
    *reason = sample_of(output, sample).stop_reason.c_str();
    return MOBA_OK;
  });
}

moba_status moba_output_num_logprobs(const moba_output* output, size_t sample,
                                     size_t* num_logprobs) {
  return guarded([&] {
    require(num_logprobs, "num_logprobs");
    *num_logprobs = logprobs_of(output, sample).items().size();
    return MOBA_OK;
  });
}

moba_status moba_output_logprob(const moba_output* output, size_t sample, size_t index,
                                const moba_logprob** logprob) {
  return guarded([&] { return give_logprob(logprobs_of(output, sample), index, logprob); });
}

moba_status moba_output_prompt_ids(const moba_output* output, const int32_t** ids,
                                   size_t* num_ids) {
  return guarded([&] {
    require(output, "output");
    require(ids, "ids");
    require(num_ids, "num_ids");
    *ids = output->output->prompt_ids.data();
    *num_ids = output->output->prompt_ids.size();
    return MOBA_OK;
  });
}

moba_status moba_output_num_prompt_logprobs(const moba_output* output, size_t* num_logprobs) {
  return guarded([&] {
    require(output, "output");
    require(num_logprobs, "num_logprobs");
    *num_logprobs = output->output->prompt_logprobs.size();
    return MOBA_OK;
  });
}

moba_status moba_output_prompt_logprob(const moba_output* output, size_t index,
                                       const moba_logprob** logprob) {
  return guarded([&] {
    require(output, "output");
    make_logprobs(*output);
    return give_logprob(*output->prompt_logprobs, index, logprob);
  });
}

moba_status moba_output_metrics(const moba_output* output, moba_metrics* metrics) {
  return guarded([&] {
    require(output, "output");
    const moba::RequestMetrics& from = output->output->metrics;
    moba_metrics to = moba_metrics_init();
    to.num_prompt_tokens = from.num_prompt_tokens;
    to.num_cached_tokens = from.num_cached_tokens;
    to.num_output_tokens = from.num_output_tokens;
    to.prompt_seconds = from.prompt_seconds;
    to.time_to_first_token_seconds = from.time_to_first_token_seconds;
    to.decode_seconds = from.decode_seconds;
    to.moba_blocks_attended = from.moba_blocks_attended;
    to.moba_blocks_available = from.moba_blocks_available;
    moba::c_api::write_struct(to, metrics, "metrics");
    return MOBA_OK;
  });
}
