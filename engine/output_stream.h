// Turns the tokens of one sequence into text and decides when the output ends.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/stop_checker.h"
#include "moba/request.h"
#include "tokenizer/incremental_decoder.h"

namespace moba {

// An output ends at an end-of-sequence token (unless ignored), a stop token, a stop string, or when
// it may grow no longer, in this order if several come with one token. End-of-sequence and stop
// tokens do not end it before min_tokens, and a stop string counts only if it is complete with a
// later token than that. Belongs to one thread.
class OutputStream {
 public:
  // Borrows the parameters' stop strings.
  OutputStream(std::shared_ptr<const Tokenizer> tokenizer, const SamplingParams& params,
               std::span<const std::int32_t> eos_token_ids);

  // One more token; `last` if no other may follow. Returns true if the output has ended.
  bool push(std::int32_t token_id, bool last);

  // The text that became complete with the last push. Never half a character, never part of a stop
  // string that is not included.
  const std::string& new_text() const { return new_text_; }
  FinishReason finish_reason() const { return finish_reason_; }
  // The stop string, or the stop token's name, that ended the output; empty for other ends.
  const std::string& stop_reason() const { return stop_reason_; }

  // Ends an output that was cut off from outside: the text that was held back.
  std::string take_rest();

 private:
  bool is_stop_token(std::int32_t id) const;
  bool push_text(const std::string& text, bool may_stop);

  std::shared_ptr<const Tokenizer> tokenizer_;
  const std::vector<std::string>& stop_strings_;
  IncrementalDecoder decoder_;
  StopChecker stop_checker_;
  std::vector<std::int32_t> stop_token_ids_;
  int min_tokens_;
  int num_tokens_ = 0;
  std::string new_text_;
  std::string stop_reason_;
  FinishReason finish_reason_ = FinishReason::kNone;
};

}  // namespace moba
