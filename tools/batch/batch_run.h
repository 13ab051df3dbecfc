// Runs the requests of a batch through an engine.
#pragma once

#include <cstdint>
#include <string>

#include "moba/engine.h"
#include "server/openai/engine_requests.h"
#include "tools/batch/done_index.h"
#include "tools/batch/line_reader.h"
#include "tools/batch/request_reader.h"
#include "tools/batch/result_file.h"

namespace moba::batch {

struct BatchOptions {
  ReadOptions read;
  bool ordered = false;
  std::size_t look_ahead = 0;     // lines that are read and not written yet, at most
  std::size_t max_in_flight = 0;  // requests that the engine has at once, at most; at least 1
  std::string model_name;         // as results call it
  bool show_progress = false;
};

struct BatchSummary {
  std::int64_t num_skipped = 0;
  std::int64_t num_done = 0;  // with an answer
  std::int64_t num_failed = 0;
  std::int64_t num_prompt_tokens = 0;
  std::int64_t num_cached_tokens = 0;  // of those, found in the cache
  std::int64_t num_output_tokens = 0;
  double seconds = 0;
  bool interrupted = false;
};

// Reads the input to its end and writes one result for each line that has none in `done`, to
// `output`, or to `errors` (null: to the output too). A signal (see signals.h) ends it early, with
// what was finished written. Throws CommandError for an input that cannot be read and a file that
// cannot be written; the results before that are whole.
BatchSummary run_batch(Engine& engine, const InputFile& input, DoneIndex done, ResultFile& output,
                       ResultFile* errors, const openai::PromptContext& prompts,
                       const BatchOptions& options);

}  // namespace moba::batch
