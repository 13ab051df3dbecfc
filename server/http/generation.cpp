#include "server/http/generation.h"

#include <algorithm>
#include <ctime>
#include <new>
#include <utility>

#include "server/openai/engine_requests.h"
#include "server/openai/json_fields.h"

namespace moba::server {
namespace {

using openai::ApiError;

constexpr int kInternalError = 500;
constexpr int kNotFound = 404;
constexpr int kUnavailable = 503;

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status();
  response.body = openai::to_text(openai::error_json(error));
  if (error.status() == kUnavailable) response.headers.emplace_back("Retry-After", "1");
  return response;
}

void check_model(const std::string& model, const std::vector<std::string>& names) {
  if (model.empty() || std::find(names.begin(), names.end(), model) != names.end()) return;
  throw ApiError(kNotFound, "the model " + openai::in_quotes(model) + " does not exist", "model",
                 "model_not_found");
}

// Text to ids, as the engine would.
void resolve_prompt(Request& request, const TokenizerHandle& tokenizer) {
  if (!request.prompt_ids.empty()) return;
  Result<std::vector<std::int32_t>> ids =
      tokenizer.encode(request.prompt, /*add_special_tokens=*/true, request.parse_special_tokens);
  if (!ids.ok()) throw openai::to_api_error(ids.status());
  request.prompt_ids = std::move(ids.value());
}

}  // namespace

void Generation::start(std::string body) {
  exchange_->on_gone([self = weak_from_this()] {
    if (const auto generation = self.lock()) {
      generation->gone_.store(true);
      if (generation->submitted_) generation->cancel_all();
    }
  });
  context_.workers.post([self = shared_from_this(), text = std::move(body)]() mutable {
    if (!self->gone_.load()) {
      try {
        self->prepare(text);
        text = std::string();
        self->submit_all();
        self->context_.io.post([self] { self->submitted(); });
      } catch (const ApiError& error) {
        self->context_.io.post([self, error] { self->failed(error); });
      } catch (const std::bad_alloc&) {
        const ApiError error(kUnavailable, "out of memory", "", "resource_exhausted");
        self->context_.io.post([self, error] { self->failed(error); });
      } catch (const std::exception& error) {
        const ApiError internal(kInternalError, error.what());
        self->context_.io.post([self, internal] { self->failed(internal); });
      }
    }
    // The last reference may be this one, and what it holds belongs to the I/O thread.
    IoThread& io = self->context_.io;
    io.post([last = std::move(self)] {});
  });
}

void Generation::prepare(const std::string& body) {
  openai::ParseOptions options;
  options.defaults = context_.model.sampling;
  request_ = openai::parse_request(endpoint_, openai::parse_object(body), options);
  check_model(request_.model, context_.model_names);
  if (!request_.unknown_fields.empty()) context_.warnings.warn(request_.unknown_fields);
  const bool chat = endpoint_ == openai::Endpoint::kChatCompletions;
  info_.id = (chat ? "chatcmpl-" : "cmpl-") + exchange_->id();
  info_.created = static_cast<std::int64_t>(std::time(nullptr));
  info_.model = request_.model.empty() ? context_.model_names.front() : request_.model;
}

void Generation::submit_all() {
  const ServedModel& model = context_.model;
  const openai::PromptContext prompts{
      model.engine->tokenizer(), model.chat_template ? &*model.chat_template : nullptr, {}};
  const std::size_t count = openai::num_engine_requests(request_);
  handles_.reserve(count);
  try {
    for (std::size_t i = 0; i < count && !gone_.load(); ++i) {
      Request request = openai::engine_request(request_, i, prompts);
      if (request_.echo && request_.stream) {
        resolve_prompt(request, model.engine->tokenizer());
        prompt_ids_.push_back(request.prompt_ids);
      }
      if (context_.timeout_seconds > 0) request.timeout_seconds = context_.timeout_seconds;
      Result<RequestHandle> handle = model.engine->submit(std::move(request), callbacks(i));
      if (!handle.ok()) throw openai::to_api_error(handle.status());
      handles_.push_back(std::move(handle.value()));
    }
  } catch (...) {
    cancel_all();
    throw;
  }
  // No longer needed, and perhaps large. The number of prompts stays.
  for (openai::Prompt& prompt : request_.prompts) prompt = {};
  request_.chat = {};
}

Callbacks Generation::callbacks(std::size_t prompt) {
  Callbacks callbacks;
  const auto self = shared_from_this();
  if (request_.stream) {
    callbacks.on_token = [self, prompt](const TokenEvent& event) {
      openai::ChunkToken token{event.token_id, event.text, std::nullopt};
      if (event.logprob != nullptr) token.logprob = *event.logprob;
      self->push({prompt, event.sample, false, std::move(token)});
      return !self->gone_.load(std::memory_order_relaxed);
    };
  }
  callbacks.on_prompt = [self](std::int64_t, std::int64_t) {
    return !self->gone_.load(std::memory_order_relaxed);
  };
  callbacks.on_finish = [self, prompt](const Result<RequestOutput>&) {
    self->push({prompt, 0, true, {}});
  };
  return callbacks;
}

void Generation::push(Event event) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = events_.empty();
    events_.push_back(std::move(event));
  }
  if (first) context_.ready.add(shared_from_this());
}

void Generation::submitted() {
  submitted_ = true;
  if (gone_.load()) {
    cancel_all();
    return;
  }
  RequestRecord& record = exchange_->record();
  record.model = info_.model;
  if (request_.stream) {
    writer_ =
        std::make_unique<openai::ChunkWriter>(request_, info_, context_.model.engine->tokenizer());
    held_.resize(handles_.size());
    HttpResponse head;
    head.content_type = "text/event-stream; charset=utf-8";
    head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    exchange_->begin_stream(std::move(head));
  }
  take_ready();
}

void Generation::failed(const ApiError& error) {
  answered_ = true;
  exchange_->record().error = error.what();
  if (!gone_.load()) exchange_->respond(error_response(error));
}

std::size_t Generation::choice_of(std::size_t prompt, int sample) const {
  return prompt * static_cast<std::size_t>(request_.sampling.n) + static_cast<std::size_t>(sample);
}

void Generation::take_ready() {
  if (!submitted_ || answered_ || gone_.load()) return;
  std::vector<Event> events;
  {
    const std::lock_guard lock(mutex_);
    events.swap(events_);
  }
  std::string out;
  for (Event& event : events) {
    if (event.finished) {
      finish_prompt(event.prompt, out);
    } else if (request_.sampling.prompt_logprobs && request_.echo) {
      // They come with the end of the request, and the prompt comes first.
      held_[event.prompt].push_back(std::move(event));
    } else {
      take_token(event, out);
    }
    if (answered_) return;
  }
  if (num_finished_ == handles_.size()) {
    complete(out);
  } else if (!out.empty()) {
    exchange_->write(out);
  }
}

void Generation::take_token(const Event& event, std::string& out) {
  const std::size_t choice = choice_of(event.prompt, event.sample);
  if (!writer_->has_begun(choice)) {
    std::vector<std::int32_t> prompt;
    if (request_.echo) prompt = prompt_ids_[event.prompt];
    writer_->begin(choice, prompt, {}, out);
  }
  writer_->token(choice, event.token, out);
}

void Generation::finish_prompt(std::size_t prompt, std::string& out) {
  ++num_finished_;
  const Result<RequestOutput>& result = handles_[prompt].wait();
  if (!result.ok()) {
    const ApiError error = openai::to_api_error(result.status());
    cancel_all();
    context_.metrics.count_finished("error");
    if (!request_.stream) {
      failed(error);
      return;
    }
    answered_ = true;
    exchange_->record().error = error.what();
    out += openai::error_event(error);
    out += openai::kDoneEvent;
    exchange_->write(out);
    exchange_->end_stream();
    return;
  }
  if (!request_.stream) return;
  const RequestOutput& output = result.value();
  const auto end = [&](int sample, const std::string& text, FinishReason reason,
                       const std::string& stop_reason) {
    const std::size_t choice = choice_of(prompt, sample);
    if (!writer_->has_begun(choice)) {
      writer_->begin(choice, output.prompt_ids, output.prompt_logprobs, out);
    }
    for (const Event& event : held_[prompt]) {
      if (event.sample == sample) writer_->token(choice, event.token, out);
    }
    writer_->finish(choice, text, reason, stop_reason, out);
  };
  end(0, output.text, output.finish_reason, output.stop_reason);
  int sample = 0;
  for (const SampleOutput& more : output.more_samples) {
    end(++sample, more.text, more.finish_reason, more.stop_reason);
  }
}

std::vector<const RequestOutput*> Generation::outputs() const {
  std::vector<const RequestOutput*> outputs;
  for (const RequestHandle& handle : handles_) outputs.push_back(&handle.wait().value());
  return outputs;
}

void Generation::record_end(const std::vector<const RequestOutput*>& outputs) {
  RequestRecord& record = exchange_->record();
  record.num_prompt_tokens = 0;
  for (const RequestOutput* output : outputs) {
    record.num_prompt_tokens += output->metrics.num_prompt_tokens;
    record.num_cached_tokens += output->metrics.num_cached_tokens;
    record.num_output_tokens += output->metrics.num_output_tokens;
    context_.metrics.count_finished(openai::finish_reason_name(output->finish_reason));
  }
  record.finish_reason = openai::finish_reason_name(outputs.front()->finish_reason);
}

void Generation::complete(std::string& out) {
  answered_ = true;
  if (gone_.load()) return;
  const std::vector<const RequestOutput*> all = outputs();
  record_end(all);
  if (request_.stream) {
    writer_->usage(all, out);
    out += openai::kDoneEvent;
    exchange_->write(out);
    exchange_->end_stream();
    return;
  }
  context_.workers.post([self = shared_from_this()]() mutable {
    self->build_answer();
    IoThread& io = self->context_.io;
    io.post([last = std::move(self)] {});
  });
}

void Generation::build_answer() {
  HttpResponse response;
  try {
    response.body = openai::to_text(
        openai::response_json(request_, outputs(), info_, context_.model.engine->tokenizer()));
  } catch (const std::exception& error) {
    response = error_response(ApiError(kInternalError, error.what()));
  }
  context_.io.post([self = shared_from_this(), answer = std::move(response)]() mutable {
    self->exchange_->respond(std::move(answer));
  });
}

// On a worker only before submitted().
void Generation::cancel_all() {
  for (RequestHandle& handle : handles_) handle.cancel();
}

}  // namespace moba::server
