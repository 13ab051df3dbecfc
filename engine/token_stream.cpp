#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "moba/engine.h"

namespace moba {

// From the engine's thread, which never waits for it, to the one that fetches.
class TokenStream::Queue {
 public:
  void push(StreamedToken token) {
    const std::lock_guard lock(mutex_);
    tokens_.push_back(std::move(token));
    changed_.notify_one();
  }

  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  Next pop(std::optional<std::chrono::duration<double>> timeout, StreamedToken& token) {
    // Longer waits would leave the clock's range.
    constexpr std::chrono::duration<double> kLongest(1e9);
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return ended_ || !tokens_.empty(); };
    if (!timeout) {
      changed_.wait(lock, ready);
    } else if (!changed_.wait_for(lock, *timeout < kLongest ? *timeout : kLongest, ready)) {
      return Next::kTimeout;
    }
    if (tokens_.empty()) return Next::kEnd;
    token = std::move(tokens_.front());
    tokens_.pop_front();
    return Next::kToken;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StreamedToken> tokens_;
  bool ended_ = false;
};

TokenStream::TokenStream(std::shared_ptr<Queue> queue, RequestHandle handle)
    : queue_(std::move(queue)), handle_(std::move(handle)) {}

TokenStream::TokenStream(TokenStream&& other) noexcept = default;

TokenStream& TokenStream::operator=(TokenStream&& other) noexcept {
  if (this == &other) return *this;
  if (handle_) handle_.cancel();
  queue_ = std::move(other.queue_);
  handle_ = std::move(other.handle_);
  return *this;
}

TokenStream::~TokenStream() {
  if (handle_) handle_.cancel();
}

std::optional<StreamedToken> TokenStream::next() {
  StreamedToken token;
  if (queue_->pop(std::nullopt, token) == Next::kEnd) return std::nullopt;
  return token;
}

TokenStream::Next TokenStream::next_for(std::chrono::duration<double> timeout,
                                        StreamedToken& token) {
  return queue_->pop(timeout, token);
}

Result<TokenStream> Engine::stream(Request request) {
  const auto queue = std::make_shared<TokenStream::Queue>();
  Callbacks callbacks;
  callbacks.on_token = [queue](const TokenEvent& event) {
    StreamedToken token;
    token.token_id = event.token_id;
    token.text = event.text;
    if (event.logprob != nullptr) token.logprob = *event.logprob;
    token.sample = event.sample;
    queue->push(std::move(token));
    return true;
  };
  callbacks.on_finish = [queue](const Result<RequestOutput>&) { queue->end(); };
  Result<RequestHandle> handle = submit(std::move(request), std::move(callbacks));
  if (!handle.ok()) return handle.status();
  return TokenStream(queue, std::move(handle.value()));
}

}  // namespace moba
