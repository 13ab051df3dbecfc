#include "engine/output_stream.h"

#include <algorithm>
#include <utility>

namespace moba {
namespace {

IncrementalDecoder::Options decoder_options(const SamplingParams& params) {
  IncrementalDecoder::Options options;
  options.skip_special_tokens = params.skip_special_tokens;
  options.continues_text = true;
  return options;
}

}  // namespace

OutputStream::OutputStream(std::shared_ptr<const Tokenizer> tokenizer, const SamplingParams& params,
                           std::span<const std::int32_t> eos_token_ids)
    : tokenizer_(tokenizer),
      stop_strings_(params.stop),
      decoder_(std::move(tokenizer), decoder_options(params)),
      stop_checker_(params.stop, params.include_stop_str_in_output),
      stop_token_ids_(params.stop_token_ids),
      min_tokens_(params.min_tokens) {
  if (!params.ignore_eos) {
    stop_token_ids_.insert(stop_token_ids_.end(), eos_token_ids.begin(), eos_token_ids.end());
  }
}

bool OutputStream::is_stop_token(std::int32_t id) const {
  return std::find(stop_token_ids_.begin(), stop_token_ids_.end(), id) != stop_token_ids_.end();
}

bool OutputStream::push_text(const std::string& text, bool may_stop) {
  if (!stop_checker_.push(text, may_stop, new_text_)) return false;
  finish_reason_ = FinishReason::kStop;
  stop_reason_ = stop_strings_[static_cast<std::size_t>(stop_checker_.matched())];
  return true;
}

bool OutputStream::push(std::int32_t token_id, bool last) {
  ++num_tokens_;
  new_text_.clear();
  // A model may have more logits than the tokenizer has tokens; those have no text.
  const bool known = token_id < tokenizer_->vocab_size();
  const bool may_stop = num_tokens_ > min_tokens_;
  if (may_stop && is_stop_token(token_id)) {
    finish_reason_ = FinishReason::kStop;
    stop_reason_ = known ? tokenizer_->token_name(token_id) : std::to_string(token_id);
    new_text_ = take_rest();
    return true;
  }
  if (known && push_text(decoder_.push(token_id), may_stop)) return true;
  if (!last) return false;
  if (push_text(decoder_.finish(), may_stop)) return true;
  stop_checker_.finish(new_text_);
  finish_reason_ = FinishReason::kLength;
  return true;
}

std::string OutputStream::take_rest() {
  std::string rest;
  stop_checker_.push(decoder_.finish(), false, rest);
  stop_checker_.finish(rest);
  return rest;
}

}  // namespace moba
