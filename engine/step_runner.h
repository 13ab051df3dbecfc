// What the engine needs of a model: a step in, tokens out.
#pragma once

#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/sampler.h"
#include "moba/request.h"

namespace moba {

// What a step gives, in the order of the batch's rows.
struct StepResult {
  struct Sample {
    SampledToken token;
    std::string error;  // not empty: this sequence cannot go on, the others can
  };
  std::vector<Sample> samples;                             // of batch.sample_rows
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // of batch.prompt_logprob_rows
  std::vector<std::string> prompt_logprob_errors;          // likewise; empty: fine
};

// A step is launched and its result collected. A runner that computes on the spot overrides run()
// alone. One whose device computes on its own overrides the other three, and then the engine
// prepares and launches a step while the one before it is computed, and hands out the tokens of a
// step while the next is computed. All calls come from one thread.
class StepRunner {
 public:
  virtual ~StepRunner() = default;

  // The result is valid until the next call; the caller may move from it. Throws Error if the step
  // failed as a whole.
  virtual StepResult& run(const Batch& batch) = 0;

  // Whether launch() may be called again before collect(): two steps are then under way at most.
  virtual bool is_asynchronous() const { return false; }
  // Steps take effect in the order of their launch: one sees all that those before it write to the
  // cache. The batch's arrays stay unchanged until its result is collected; the sequences it points
  // to do not, so that what they say of sampling is read before this returns. Where
  // batch.token_sources is not empty, tokens are those that the step launched before it samples.
  // Throws Error if the step cannot be launched; nothing of it takes effect then.
  virtual void launch(const Batch& batch) { launched_ = &run(batch); }
  // Waits for the first of the launched steps whose result was not collected yet. The result is
  // valid until the next call of collect(); the caller may move from it. Throws Error if the step
  // failed as a whole.
  virtual StepResult& collect() { return *launched_; }

 private:
  StepResult* launched_ = nullptr;
};

}  // namespace moba
