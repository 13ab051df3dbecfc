// What the opaque types of moba.h hold.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "moba/chat_template.h"
#include "moba/engine.h"
#include "moba/moba.h"
#include "moba/request.h"
#include "moba/settings.h"
#include "moba/tokenizer.h"

namespace moba::c_api {

// Log probabilities as C has them; points into itself, so it does not move.
class LogprobList {
 public:
  explicit LogprobList(const std::vector<TokenLogprob>& list);
  explicit LogprobList(const TokenLogprob& logprob);
  LogprobList(const LogprobList&) = delete;
  LogprobList& operator=(const LogprobList&) = delete;

  const std::vector<moba_logprob>& items() const { return items_; }

 private:
  void add(const TokenLogprob* first, std::size_t count);

  std::vector<moba_top_logprob> tops_;
  std::vector<moba_logprob> items_;
};

// The engine whose callback the calling thread is in, or null.
const Engine* engine_of_callback();

// The callbacks of a C program as those of the engine; empty for null. Copies them. Throws
// StatusError for a struct_size that cannot be.
Callbacks make_callbacks(const moba_callbacks* callbacks, const Engine* engine);

}  // namespace moba::c_api

struct moba_config {
  moba::Configuration configuration;
};

struct moba_tokenizer {
  moba::TokenizerHandle tokenizer;
};

struct moba_chat_template {
  moba::ChatTemplateHandle chat_template;
};

struct moba_engine {
  std::unique_ptr<moba::Engine> engine;
};

struct moba_request {
  moba::Request request;
};

struct moba_output {
  // Of a handle, which keeps it alive.
  moba_output(moba::RequestHandle request, const moba::RequestOutput& of_request)
      : handle(std::move(request)), output(&of_request) {}
  explicit moba_output(moba::RequestOutput value) : own(std::move(value)), output(&*own) {}
  // Borrowed: for the time of a callback.
  explicit moba_output(const moba::RequestOutput* borrowed) : output(borrowed) {}
  moba_output(const moba_output&) = delete;
  moba_output& operator=(const moba_output&) = delete;

  moba::RequestHandle handle;
  std::optional<moba::RequestOutput> own;
  const moba::RequestOutput* output;

  // Made when first asked for.
  mutable std::once_flag logprobs_made;
  mutable std::vector<std::unique_ptr<moba::c_api::LogprobList>> logprobs;  // [n]
  mutable std::unique_ptr<moba::c_api::LogprobList> prompt_logprobs;
};

struct moba_handle {
  moba::RequestHandle handle;
};

struct moba_stream {
  explicit moba_stream(moba::TokenStream tokens) : stream(std::move(tokens)) {}

  moba::TokenStream stream;
  // The token that was fetched last, and its C form.
  moba::StreamedToken current;
  std::optional<moba::c_api::LogprobList> logprob;
  moba_token token{};
};
