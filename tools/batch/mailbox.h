// Where the thread that reads the input and the engine's thread leave things for the main thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "tools/batch/batch_item.h"

namespace moba::batch {

// Keeps the reader from going further ahead than a number of lines, and of bytes, whose results are
// not written yet. So memory is bounded whatever the size of the input. Thread-safe.
class Mailbox {
 public:
  Mailbox(std::size_t max_lines, std::size_t max_bytes)
      : max_lines_(max_lines), max_bytes_(max_bytes) {}

  struct Mail {
    std::vector<ReadLine> lines;         // in the order of the input
    std::vector<std::int64_t> finished;  // sequence numbers of lines with a request that ended
    bool input_ended = false;
    bool full = false;  // the reader waits for room
  };

  // The reader's side. Waits for room; false if nothing is wanted any more.
  bool post_line(ReadLine line);
  // The input has ended, or could not be read.
  void post_end(std::exception_ptr error);

  // The engine's side. Never waits.
  void post_finished(std::int64_t sequence);

  // The main thread's side. Takes what is there, waiting at most that long for something. Throws
  // what the reader threw.
  Mail take(std::chrono::milliseconds timeout);
  // The result of a line is written; its bytes were `bytes`.
  void release(std::size_t bytes);
  // The result of a line waits and takes memory too.
  void hold(std::size_t bytes);
  // Lets the reader end.
  void close();

 private:
  bool has_room(std::size_t bytes) const;

  const std::size_t max_lines_;
  const std::size_t max_bytes_;
  std::mutex mutex_;
  std::condition_variable room_;  // for the reader
  std::condition_variable mail_;  // for the main thread
  Mail waiting_;
  std::exception_ptr error_;
  std::size_t num_lines_ = 0;  // posted and not released
  std::size_t num_bytes_ = 0;
  bool told_end_ = false;
  bool closed_ = false;
};

}  // namespace moba::batch
