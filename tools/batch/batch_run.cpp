#include "tools/batch/batch_run.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/openai/api_response.h"
#include "tools/batch/batch_progress.h"
#include "tools/batch/line_counter.h"
#include "tools/batch/look_ahead.h"
#include "tools/batch/mailbox.h"
#include "tools/batch/result_writer.h"
#include "tools/moba/signals.h"

namespace moba::batch {
namespace {

using openai::ApiError;

// Of lines whose results are not written yet.
constexpr std::size_t kMaxBytes = std::size_t{256} << 20;
// The first request waits that long for others that it might be better to start with.
constexpr auto kFirstLook = std::chrono::milliseconds(200);
constexpr auto kTick = std::chrono::milliseconds(50);
constexpr std::size_t kMaxWarnings = 32;

// What callbacks on the engine's thread write; they may come after the run has ended.
struct Shared {
  explicit Shared(std::size_t look_ahead) : mailbox(look_ahead, kMaxBytes) {}
  Mailbox mailbox;
  std::atomic<std::int64_t> num_tokens{0};  // of prompts, as far as they are read, and of outputs
};

// A line whose requests are with the engine.
struct Running {
  ReadLine line;
  std::vector<RequestHandle> handles;
  std::size_t num_finished = 0;
  bool all_submitted = false;
  std::optional<ApiError> error;
};

// Reads the input on a thread of its own.
class ReaderThread {
 public:
  ReaderThread(const InputFile& input, DoneIndex done, const ReadOptions& options, Mailbox& mailbox)
      : mailbox_(mailbox),
        reader_(input, std::move(done), options, stop_),
        thread_([this] { run(); }) {}
  ~ReaderThread() {
    stop_.store(true);
    mailbox_.close();
    thread_.join();
  }
  ReaderThread(const ReaderThread&) = delete;
  ReaderThread& operator=(const ReaderThread&) = delete;

  std::int64_t num_skipped() const { return reader_.num_skipped(); }

 private:
  void run() {
    try {
      while (std::optional<ReadLine> line = reader_.next()) {
        if (!mailbox_.post_line(std::move(*line))) return;
      }
      mailbox_.post_end(nullptr);
    } catch (...) {
      mailbox_.post_end(std::current_exception());
    }
  }

  Mailbox& mailbox_;
  std::atomic<bool> stop_{false};
  RequestReader reader_;
  std::thread thread_;  // last: it uses the others
};

class BatchRun {
 public:
  BatchRun(Engine& engine, const InputFile& input, DoneIndex done, ResultFile& output,
           ResultFile* errors, const openai::PromptContext& prompts, const BatchOptions& options)
      : engine_(engine),
        prompts_(prompts),
        options_(options),
        shared_(std::make_shared<Shared>(options.look_ahead)),
        writer_(output, errors, options.ordered, shared_->mailbox),
        progress_(options.show_progress),
        counter_(input, options.read.shard),
        reader_(input, std::move(done), options.read, shared_->mailbox) {}

  BatchSummary run() {
    const cli::InterruptScope interrupts;
    while (cli::interrupt_signal() == 0) {
      Mailbox::Mail mail = shared_->mailbox.take(kTick);
      for (ReadLine& line : mail.lines) take_line(std::move(line));
      for (const std::int64_t sequence : mail.finished) take_finished(sequence);
      if (mail.input_ended || mail.full || progress_.seconds() > first_look_seconds()) {
        submit_more();
      }
      if (mail.input_ended && waiting_.empty() && running_.empty()) break;
      if (progress_.due()) progress_.show(counts());
    }
    progress_.clear();
    summary_.interrupted = cli::interrupt_signal() != 0;
    for (auto& [sequence, running] : running_) cancel(running);
    summary_.num_skipped = reader_.num_skipped();
    summary_.seconds = progress_.seconds();
    return summary_;
  }

 private:
  static double first_look_seconds() { return std::chrono::duration<double>(kFirstLook).count(); }

  void take_line(ReadLine line) {
    if (line.item == nullptr) {
      ++summary_.num_failed;
      writer_.write(line.sequence, line.bytes, /*failed=*/true, std::move(line.failure));
      return;
    }
    for (const std::string& name : line.item->request.unknown_fields) warn(name, *line.item);
    if (line.item->request.stream) warn("stream", *line.item);
    waiting_.add(std::move(line));
  }

  void warn(const std::string& field, const BatchItem& item) {
    if (warned_.size() >= kMaxWarnings || !warned_.insert(field).second) return;
    progress_.clear();
    spdlog::warn("line {}: the field {} is ignored, here and on other lines", item.line_number,
                 openai::in_quotes(field));
  }

  // The engine always has some requests more than it can run at once, so that it never runs dry.
  void submit_more() {
    while (num_in_flight_ < options_.max_in_flight) {
      if (submitting_ == nullptr) {
        if (waiting_.empty()) return;
        ReadLine line = waiting_.take();
        const std::int64_t sequence = line.sequence;
        submitting_ = &running_[sequence];
        submitting_->line = std::move(line);
      }
      submit_next(*submitting_);
    }
  }

  void submit_next(Running& running) {
    const openai::ApiRequest& request = running.line.item->request;
    const std::size_t index = running.handles.size();
    try {
      Result<RequestHandle> handle = engine_.submit(
          openai::engine_request(request, index, prompts_), callbacks_for(running.line.sequence));
      if (!handle.ok()) throw openai::to_api_error(handle.status());
      running.handles.push_back(std::move(handle.value()));
      ++num_in_flight_;
    } catch (const ApiError& error) {
      fail(running, error);
    }
    running.all_submitted =
        running.error || running.handles.size() == openai::num_engine_requests(request);
    if (!running.all_submitted) return;
    submitting_ = nullptr;
    BatchItem& item = *running.line.item;
    // No longer needed, and perhaps large.
    item.request.prompts.clear();
    item.request.chat.messages = nullptr;
    item.key = {};
    if (running.num_finished == running.handles.size()) complete(running.line.sequence);
  }

  Callbacks callbacks_for(std::int64_t sequence) const {
    Callbacks callbacks;
    callbacks.on_prompt = [shared = shared_, before = std::int64_t{0}](
                              std::int64_t computed, std::int64_t /*total*/) mutable {
      shared->num_tokens.fetch_add(computed - before, std::memory_order_relaxed);
      before = computed;
      return cli::interrupt_signal() == 0;
    };
    callbacks.on_token = [shared = shared_](const TokenEvent&) {
      shared->num_tokens.fetch_add(1, std::memory_order_relaxed);
      return cli::interrupt_signal() == 0;
    };
    callbacks.on_finish = [shared = shared_, sequence](const Result<RequestOutput>&) {
      shared->mailbox.post_finished(sequence);
    };
    return callbacks;
  }

  static void cancel(Running& running) {
    for (RequestHandle& handle : running.handles) handle.cancel();
  }

  // The first error is the line's; its other requests are of no use then.
  static void fail(Running& running, const ApiError& error) {
    if (running.error) return;
    running.error = error;
    cancel(running);
  }

  void take_finished(std::int64_t sequence) {
    Running& running = running_.at(sequence);
    ++running.num_finished;
    --num_in_flight_;
    if (running.all_submitted && running.num_finished == running.handles.size()) {
      complete(sequence);
    }
  }

  void complete(std::int64_t sequence) {
    const auto it = running_.find(sequence);
    Running& running = it->second;
    std::vector<const RequestOutput*> outputs;
    for (const RequestHandle& handle : running.handles) {
      const Result<RequestOutput>& result = handle.wait();
      if (!result.ok()) {
        fail(running, openai::to_api_error(result.status()));
      } else if (result.value().finish_reason == FinishReason::kCancelled && !running.error) {
        running_.erase(it);  // interrupted: the next run computes it
        return;
      } else {
        outputs.push_back(&result.value());
      }
    }
    write_result(running, outputs);
    running_.erase(it);
  }

  void write_result(Running& running, const std::vector<const RequestOutput*>& outputs) {
    const BatchItem& item = *running.line.item;
    const bool failed = running.error.has_value();
    std::string record;
    if (failed) {
      ++summary_.num_failed;
      record =
          failure_record(item.id, item.custom_id, LineError::of(*running.error), item.line_number);
    } else {
      ++summary_.num_done;
      for (const RequestOutput* output : outputs) {
        summary_.num_prompt_tokens += output->metrics.num_prompt_tokens;
        summary_.num_cached_tokens += output->metrics.num_cached_tokens;
        summary_.num_output_tokens += output->metrics.num_output_tokens;
      }
      record = success_record(
          item.id, item.custom_id,
          openai::response_json(item.request, outputs, response_info(item), prompts_.tokenizer));
    }
    writer_.write(running.line.sequence, running.line.bytes, failed, std::move(record));
  }

  openai::ResponseInfo response_info(const BatchItem& item) const {
    const bool chat = item.request.endpoint == openai::Endpoint::kChatCompletions;
    return {(chat ? "chatcmpl-" : "cmpl-") + to_hex(item.id.run) + to_hex(item.id.line),
            static_cast<std::int64_t>(std::time(nullptr)), options_.model_name};
  }

  BatchCounts counts() const {
    BatchCounts counts;
    counts.total = counter_.total();
    counts.skipped = reader_.num_skipped();
    counts.finished = summary_.num_done + summary_.num_failed;
    counts.failed = summary_.num_failed;
    counts.tokens = std::max<std::int64_t>(
        0, shared_->num_tokens.load() - engine_.stats().num_prefix_hit_tokens);
    return counts;
  }

  Engine& engine_;
  const openai::PromptContext& prompts_;
  const BatchOptions& options_;
  const std::shared_ptr<Shared> shared_;
  ResultWriter writer_;
  BatchSummary summary_;
  LookAhead waiting_;
  std::unordered_map<std::int64_t, Running> running_;  // by sequence
  Running* submitting_ = nullptr;                      // one of them with requests left to submit
  std::size_t num_in_flight_ = 0;                      // requests with the engine
  std::set<std::string> warned_;
  BatchProgress progress_;
  LineCounter counter_;
  ReaderThread reader_;
};

}  // namespace

BatchSummary run_batch(Engine& engine, const InputFile& input, DoneIndex done, ResultFile& output,
                       ResultFile* errors, const openai::PromptContext& prompts,
                       const BatchOptions& options) {
  return BatchRun(engine, input, std::move(done), output, errors, prompts, options).run();
}

}  // namespace moba::batch
