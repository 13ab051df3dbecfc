// Requests on their way: callbacks, handles and streams.
#include <chrono>

#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"

namespace moba::c_api {
namespace {

thread_local const Engine* callback_engine = nullptr;

// Marks the thread as inside a callback of an engine.
class CallbackScope {
 public:
  explicit CallbackScope(const Engine* engine) : outer_(callback_engine) {
    callback_engine = engine;
  }
  ~CallbackScope() { callback_engine = outer_; }
  CallbackScope(const CallbackScope&) = delete;
  CallbackScope& operator=(const CallbackScope&) = delete;

 private:
  const Engine* outer_;
};

moba_token make_token(std::int32_t token_id, int sample, const std::string& text,
                      const LogprobList* logprob) {
  return {token_id, sample, text.c_str(), text.size(),
          logprob == nullptr ? nullptr : logprob->items().data()};
}

moba_status wait_for(const RequestHandle& handle, double timeout_seconds, moba_output** out) {
  if (timeout_seconds != timeout_seconds) return fail(MOBA_INVALID_ARGUMENT, "timeout is NaN");
  if (timeout_seconds >= 0 && !handle.wait_for(std::chrono::duration<double>(timeout_seconds))) {
    return MOBA_TIMEOUT;
  }
  const Result<RequestOutput>& result = handle.wait();
  if (!result.ok()) return fail(result.status());
  if (out != nullptr) *out = new moba_output(handle, result.value());
  return MOBA_OK;
}

}  // namespace

const Engine* engine_of_callback() { return callback_engine; }

Callbacks make_callbacks(const moba_callbacks* given, const Engine* engine) {
  Callbacks callbacks;
  if (given == nullptr) return callbacks;
  const moba_callbacks c = read_struct(given, "callbacks");
  if (c.on_token != nullptr) {
    callbacks.on_token = [c, engine](const TokenEvent& event) {
      const CallbackScope scope(engine);
      std::optional<LogprobList> logprob;
      if (event.logprob != nullptr) logprob.emplace(*event.logprob);
      const moba_token token =
          make_token(event.token_id, event.sample, event.text, logprob ? &*logprob : nullptr);
      return c.on_token(c.user_data, &token);
    };
  }
  if (c.on_prompt != nullptr) {
    callbacks.on_prompt = [c, engine](std::int64_t computed, std::int64_t total) {
      const CallbackScope scope(engine);
      return c.on_prompt(c.user_data, computed, total);
    };
  }
  if (c.on_finish != nullptr) {
    callbacks.on_finish = [c, engine](const Result<RequestOutput>& result) {
      const CallbackScope scope(engine);
      if (result.ok()) {
        const moba_output output(&result.value());
        c.on_finish(c.user_data, MOBA_OK, "", &output);
      } else {
        c.on_finish(c.user_data, to_c(result.status().code()), result.status().message().c_str(),
                    nullptr);
      }
    };
  }
  return callbacks;
}

}  // namespace moba::c_api

using moba::c_api::fail;
using moba::c_api::guarded;
using moba::c_api::require;

moba_status moba_generate(moba_engine* engine, const moba_request* request,
                          const moba_callbacks* callbacks, moba_output** out) {
  return guarded([&] {
    require(engine, "engine");
    require(request, "request");
    require(out, "out");
    auto output = engine->engine->generate(
        request->request, moba::c_api::make_callbacks(callbacks, engine->engine.get()));
    if (!output.ok()) return fail(output.status());
    *out = new moba_output(std::move(output.value()));
    return MOBA_OK;
  });
}

moba_status moba_submit(moba_engine* engine, const moba_request* request,
                        const moba_callbacks* callbacks, moba_handle** out) {
  return guarded([&] {
    require(engine, "engine");
    require(request, "request");
    if (callbacks == nullptr) require(out, "out");
    auto made = std::make_unique<moba_handle>();  // first, so that it cannot fail afterwards
    auto handle = engine->engine->submit(
        request->request, moba::c_api::make_callbacks(callbacks, engine->engine.get()));
    if (!handle.ok()) return fail(handle.status());
    made->handle = std::move(handle.value());
    if (out != nullptr) *out = made.release();
    return MOBA_OK;
  });
}

void moba_handle_destroy(moba_handle* handle) { delete handle; }

moba_status moba_handle_id(const moba_handle* handle, int64_t* id) {
  return guarded([&] {
    require(handle, "handle");
    require(id, "id");
    *id = handle->handle.id();
    return MOBA_OK;
  });
}

moba_status moba_handle_cancel(const moba_handle* handle) {
  return guarded([&] {
    require(handle, "handle");
    moba::RequestHandle(handle->handle).cancel();
    return MOBA_OK;
  });
}

moba_status moba_handle_done(const moba_handle* handle, bool* done) {
  return guarded([&] {
    require(handle, "handle");
    require(done, "done");
    *done = handle->handle.done();
    return MOBA_OK;
  });
}

moba_status moba_handle_wait(const moba_handle* handle, double timeout_seconds, moba_output** out) {
  return guarded([&] {
    require(handle, "handle");
    return moba::c_api::wait_for(handle->handle, timeout_seconds, out);
  });
}

moba_status moba_stream_create(moba_engine* engine, const moba_request* request,
                               moba_stream** out) {
  return guarded([&] {
    require(engine, "engine");
    require(request, "request");
    require(out, "out");
    auto stream = engine->engine->stream(request->request);
    if (!stream.ok()) return fail(stream.status());
    *out = new moba_stream(std::move(stream.value()));
    return MOBA_OK;
  });
}

void moba_stream_destroy(moba_stream* stream) { delete stream; }

moba_status moba_stream_next(moba_stream* stream, double timeout_seconds,
                             const moba_token** token) {
  return guarded([&] {
    require(stream, "stream");
    require(token, "token");
    if (timeout_seconds != timeout_seconds) return fail(MOBA_INVALID_ARGUMENT, "timeout is NaN");
    if (timeout_seconds < 0) {
      std::optional<moba::StreamedToken> next = stream->stream.next();
      if (!next) return MOBA_END;
      stream->current = std::move(*next);
    } else {
      using Next = moba::TokenStream::Next;
      const Next next =
          stream->stream.next_for(std::chrono::duration<double>(timeout_seconds), stream->current);
      if (next == Next::kTimeout) return MOBA_TIMEOUT;
      if (next == Next::kEnd) return MOBA_END;
    }
    stream->logprob.reset();
    if (stream->current.logprob) stream->logprob.emplace(*stream->current.logprob);
    stream->token = moba::c_api::make_token(stream->current.token_id, stream->current.sample,
                                            stream->current.text,
                                            stream->logprob ? &*stream->logprob : nullptr);
    *token = &stream->token;
    return MOBA_OK;
  });
}

moba_status moba_stream_cancel(const moba_stream* stream) {
  return guarded([&] {
    require(stream, "stream");
    moba::RequestHandle(stream->stream.handle()).cancel();
    return MOBA_OK;
  });
}

moba_status moba_stream_wait(const moba_stream* stream, double timeout_seconds, moba_output** out) {
  return guarded([&] {
    require(stream, "stream");
    return moba::c_api::wait_for(stream->stream.handle(), timeout_seconds, out);
  });
}
