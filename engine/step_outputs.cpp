// What becomes of a step's results: tokens, text, callbacks, the ends of requests.
#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "engine/engine_core.h"
#include "engine/guarded_call.h"
#include "engine/status_error.h"

namespace moba {

void EngineCore::take_results(const Flight& flight, StepResult& result, Clock::time_point now) {
  const Batch& batch = *flight.batch;
  take_prompt_logprobs(batch, result);
  for (const ScheduledChunk& chunk : flight.chunks) {
    ActiveRequest* request = find(chunk.sequence->request_id);
    if (request == nullptr) continue;
    count_moba_blocks_of(*request, chunk);
    take_prompt_progress(*request, chunk, now);
  }
  for (std::size_t i = 0; i < batch.sample_rows.size(); ++i) {
    const Sequence* sequence = batch.sample_rows[i].sequence;
    ActiveRequest* request = find(sequence->request_id);
    if (request == nullptr) continue;
    ActiveSample& sample = *request->samples[static_cast<std::size_t>(sequence->sample)];
    // It ended with the token before, when this step was under way already.
    if (sample.ended) continue;
    take_sample(*request, sample, result.samples[i], now);
  }
}

void EngineCore::count_moba_blocks_of(ActiveRequest& request, const ScheduledChunk& chunk) {
  const bool prompt = chunk.sequence->in_prompt(chunk.first);
  for (const LayerGroup& group : prompt ? request.prefill_groups : request.decode_groups) {
    const MobaBlockCounts blocks =
        count_moba_blocks(chunk.first, chunk.end(), config_.geometry.moba_block_size, group.topk);
    const std::int64_t heads = std::int64_t{group.num_layers} * config_.model.num_q_heads;
    request.moba_blocks_attended += blocks.attended * heads;
    request.moba_blocks_available += blocks.available * heads;
    stats_.moba_blocks_attended += blocks.attended * heads;
    stats_.moba_blocks_available += blocks.available * heads;
  }
}

void EngineCore::take_prompt_logprobs(const Batch& batch, StepResult& result) {
  for (std::size_t i = 0; i < batch.prompt_logprob_rows.size(); ++i) {
    const PromptLogprobRows& rows = batch.prompt_logprob_rows[i];
    ActiveRequest* request = find(rows.sequence->request_id);
    if (request == nullptr) continue;
    if (!result.prompt_logprob_errors[i].empty()) {
      fail(*request, Status(StatusCode::kInternal, result.prompt_logprob_errors[i]));
      continue;
    }
    std::vector<TokenLogprob>& out = request->prompt_logprobs;
    if (out.empty()) out.reserve(static_cast<std::size_t>(rows.sequence->num_prompt_tokens - 1));
    std::move(result.prompt_logprobs[i].begin(), result.prompt_logprobs[i].end(),
              std::back_inserter(out));
  }
}

void EngineCore::take_prompt_progress(ActiveRequest& request, const ScheduledChunk& chunk,
                                      Clock::time_point now) {
  if (request.prompt_done) return;
  const Sequence& sequence = request.first();
  const std::int64_t total = sequence.num_prompt_tokens;
  const std::int64_t computed = std::min(chunk.end(), total);
  if (computed == total) {
    request.prompt_done = now;
    stats_.num_prompt_tokens += total;
  }
  if (request.callbacks.on_prompt) {
    bool go_on = true;
    const std::string error =
        guarded([&] { go_on = request.callbacks.on_prompt(computed, total); });
    if (!error.empty()) return fail(request, Status(StatusCode::kInternal, error));
    if (!go_on) return finish(request, FinishReason::kCancelled, "");
  }
  if (computed == total && sequence.max_num_tokens == total) {
    finish(request, FinishReason::kLength, "");
  }
}

void EngineCore::count_token(ActiveRequest& request, ActiveSample& sample, Clock::time_point now) {
  ++stats_.num_output_tokens;
  if (!request.last_token) {
    stats_.time_to_first_token.add(seconds_between(request.arrival, now));
  }
  if (sample.last_token) stats_.inter_token.add(seconds_between(*sample.last_token, now));
  request.last_token = sample.last_token = now;
}

void EngineCore::take_sample(ActiveRequest& request, ActiveSample& sample,
                             StepResult::Sample& result, Clock::time_point now) {
  if (!result.error.empty()) return fail(request, Status(StatusCode::kInternal, result.error));

  const std::int32_t token_id = result.token.token_id;
  Sequence& sequence = sample.sequence;
  sequence.tokens[static_cast<std::size_t>(sequence.num_known_tokens())] = token_id;
  --sequence.num_unknown_tokens;
  sequence.sampling.add_output_token(token_id);
  count_token(request, sample, now);
  const bool is_last = sequence.num_known_tokens() == sequence.max_num_tokens;
  const bool ended = sample.stream->push(token_id, is_last);
  sample.output.text += sample.stream->new_text();
  if (result.token.has_logprob) {
    sample.output.logprobs.push_back(std::move(result.token.logprob));
  }
  if (request.callbacks.on_token) {
    const TokenEvent event{token_id, sample.stream->new_text(),
                           result.token.has_logprob ? &sample.output.logprobs.back() : nullptr,
                           sequence.sample};
    bool go_on = true;
    const std::string error = guarded([&] { go_on = request.callbacks.on_token(event); });
    if (!error.empty()) return fail(request, Status(StatusCode::kInternal, error));
    if (!go_on) {
      if (ended) {
        end_sample(request, sample, sample.stream->finish_reason(), sample.stream->stop_reason());
      }
      return finish(request, FinishReason::kCancelled, "");
    }
  }
  if (!ended) return;
  end_sample(request, sample, sample.stream->finish_reason(), sample.stream->stop_reason());
  const bool all = std::all_of(request.samples.begin(), request.samples.end(),
                               [](const auto& other) { return other->ended; });
  if (!all) return;
  stats_.end_to_end.add(seconds_between(request.arrival, now));
  leave(request, make_output(request));
}

void EngineCore::end_sample(ActiveRequest& request, ActiveSample& sample, FinishReason reason,
                            std::string stop_reason) {
  Sequence& sequence = sample.sequence;
  const std::int64_t num_known = sequence.num_known_tokens();
  sample.output.token_ids.assign(
      sequence.tokens.begin() +
          static_cast<std::ptrdiff_t>(std::min(sequence.num_prompt_tokens, num_known)),
      sequence.tokens.begin() + static_cast<std::ptrdiff_t>(num_known));
  sample.output.finish_reason = reason;
  sample.output.stop_reason = std::move(stop_reason);
  if (reason == FinishReason::kCancelled) sample.output.text += sample.stream->take_rest();
  sample.ended = true;
  unschedule(sample);
  // Those that were to fork from it never ran.
  if (&sample == request.samples.front().get()) sequence.forks.clear();
}

void EngineCore::finish(ActiveRequest& request, FinishReason reason,
                        const std::string& stop_reason) {
  for (const auto& sample : request.samples) {
    if (!sample->ended) end_sample(request, *sample, reason, stop_reason);
  }
  if (reason == FinishReason::kCancelled) {
    ++(stop_reason.empty() ? stats_.num_cancelled : stats_.num_expired);
  }
  leave(request, make_output(request));
}

RequestMetrics EngineCore::make_metrics(const ActiveRequest& request) const {
  RequestMetrics metrics;
  metrics.num_prompt_tokens = request.first().num_prompt_tokens;
  metrics.num_cached_tokens = request.first().num_cached_tokens;
  for (const auto& sample : request.samples) {
    metrics.num_output_tokens += static_cast<std::int64_t>(sample->output.token_ids.size());
  }
  if (request.first_step && request.prompt_done) {
    metrics.prompt_seconds = seconds_between(*request.first_step, *request.prompt_done);
    metrics.time_to_first_token_seconds = seconds_between(request.arrival, *request.prompt_done);
    if (request.last_token) {
      metrics.decode_seconds = seconds_between(*request.prompt_done, *request.last_token);
    }
  }
  metrics.moba_blocks_attended = request.moba_blocks_attended;
  metrics.moba_blocks_available = request.moba_blocks_available;
  return metrics;
}

RequestOutput EngineCore::make_output(ActiveRequest& request) const {
  RequestOutput output;
  output.metrics = make_metrics(request);
  const Sequence& first = request.first();
  output.prompt_ids.assign(
      first.tokens.begin(),
      first.tokens.begin() + static_cast<std::ptrdiff_t>(first.num_prompt_tokens));
  output.prompt_logprobs = std::move(request.prompt_logprobs);
  SampleOutput& sample = request.samples.front()->output;
  output.token_ids = std::move(sample.token_ids);
  output.text = std::move(sample.text);
  output.finish_reason = sample.finish_reason;
  output.stop_reason = std::move(sample.stop_reason);
  output.logprobs = std::move(sample.logprobs);
  for (std::size_t i = 1; i < request.samples.size(); ++i) {
    output.more_samples.push_back(std::move(request.samples[i]->output));
  }
  return output;
}

void EngineCore::fail(ActiveRequest& request, const Status& status) { leave(request, status); }

void EngineCore::leave(ActiveRequest& request, Result<RequestOutput> result) {
  for (const auto& sample : request.samples) unschedule(*sample);
  if (request.deadline) deadlines_.erase({*request.deadline, request.id()});
  ++stats_.num_finished;
  if (!result.ok()) ++stats_.num_failed;
  const auto it = requests_.find(request.id());
  left_.push_back({std::move(it->second), num_launched_});
  requests_.erase(it);
  if (request.on_finish) guarded([&] { request.on_finish(std::move(result)); });
}

}  // namespace moba
