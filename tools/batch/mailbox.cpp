#include "tools/batch/mailbox.h"

#include <utility>

namespace moba::batch {

// One line always fits.
bool Mailbox::has_room(std::size_t bytes) const {
  return num_lines_ == 0 || (num_lines_ < max_lines_ && num_bytes_ + bytes <= max_bytes_);
}

bool Mailbox::post_line(ReadLine line) {
  std::unique_lock lock(mutex_);
  if (!closed_ && !has_room(line.bytes)) {
    waiting_.full = true;
    mail_.notify_one();
    room_.wait(lock, [&] { return closed_ || has_room(line.bytes); });
    waiting_.full = false;
  }
  if (closed_) return false;
  ++num_lines_;
  num_bytes_ += line.bytes;
  waiting_.lines.push_back(std::move(line));
  mail_.notify_one();
  return true;
}

void Mailbox::post_end(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  waiting_.input_ended = true;
  error_ = std::move(error);
  mail_.notify_one();
}

void Mailbox::post_finished(std::int64_t sequence) {
  const std::lock_guard lock(mutex_);
  waiting_.finished.push_back(sequence);
  mail_.notify_one();
}

Mailbox::Mail Mailbox::take(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  mail_.wait_for(lock, timeout, [this] {
    return !waiting_.lines.empty() || !waiting_.finished.empty() || error_ != nullptr ||
           (waiting_.input_ended && !told_end_);
  });
  told_end_ = waiting_.input_ended;
  if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  Mail mail;
  mail.lines.swap(waiting_.lines);
  mail.finished.swap(waiting_.finished);
  mail.input_ended = waiting_.input_ended;
  mail.full = waiting_.full;
  return mail;
}

void Mailbox::release(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  --num_lines_;
  num_bytes_ -= bytes;
  room_.notify_one();
}

void Mailbox::hold(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  num_bytes_ += bytes;
}

void Mailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  room_.notify_one();
}

}  // namespace moba::batch
