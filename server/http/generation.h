// A request that generates, from its body to the end of its answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/http/exchange.h"
#include "server/http/field_warnings.h"
#include "server/http/metrics.h"
#include "server/http/ready_list.h"
#include "server/http/served_model.h"
#include "server/http/worker_pool.h"
#include "server/openai/api_request.h"
#include "server/openai/api_response.h"
#include "server/openai/stream_chunks.h"

namespace moba::server {

// What all requests share. Borrowed; outlives them.
struct GenerationContext {
  const ServedModel& model;
  const std::vector<std::string>& model_names;
  double timeout_seconds;  // 0: none
  WorkerPool& workers;
  IoThread& io;
  ReadyList& ready;
  Metrics& metrics;
  FieldWarnings& warnings;
};

// Three threads see it: a worker reads the body, submits what it asks for and builds a long answer;
// the engine's thread leaves tokens; all the rest happens on the I/O thread. Kept alive by what
// refers to it: the callbacks of its requests and the functions that are posted.
class Generation : public ReadyItem, public std::enable_shared_from_this<Generation> {
 public:
  Generation(const GenerationContext& context, openai::Endpoint endpoint,
             std::shared_ptr<Exchange> exchange)
      : context_(context), endpoint_(endpoint), exchange_(std::move(exchange)) {}

  // On the I/O thread. A client that goes away cancels it, wherever it is.
  void start(std::string body);

 private:
  struct Event {
    std::size_t prompt;
    int sample;
    bool finished;
    openai::ChunkToken token;
  };

  // On a worker.
  void prepare(const std::string& body);
  void submit_all();
  Callbacks callbacks(std::size_t prompt);
  void build_answer();

  // On the engine's thread.
  void push(Event event);

  // On the I/O thread.
  void take_ready() override;
  void submitted();
  void failed(const openai::ApiError& error);
  void take_token(const Event& event, std::string& out);
  void finish_prompt(std::size_t prompt, std::string& out);
  void complete(std::string& out);
  void record_end(const std::vector<const RequestOutput*>& outputs);
  void cancel_all();
  std::size_t choice_of(std::size_t prompt, int sample) const;
  std::vector<const RequestOutput*> outputs() const;

  const GenerationContext& context_;
  const openai::Endpoint endpoint_;
  const std::shared_ptr<Exchange> exchange_;
  std::atomic<bool> gone_{false};

  // Set by the worker before submitted() is posted, then left alone.
  openai::ApiRequest request_;
  openai::ResponseInfo info_;
  std::vector<RequestHandle> handles_;                 // one for each prompt
  std::vector<std::vector<std::int32_t>> prompt_ids_;  // the same, for a stream with echo

  std::mutex mutex_;
  std::vector<Event> events_;

  // Of the I/O thread.
  bool submitted_ = false;
  bool answered_ = false;
  std::unique_ptr<openai::ChunkWriter> writer_;  // of a stream
  std::vector<std::vector<Event>> held_;         // by prompt: tokens of a stream that must wait
  std::size_t num_finished_ = 0;
};

}  // namespace moba::server
