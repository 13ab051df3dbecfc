// Puts results into the output and the error file.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tools/batch/mailbox.h"
#include "tools/batch/result_file.h"

namespace moba::batch {

// Every sequence number comes once. In order, a result waits for those before it; the mailbox
// bounds how many can wait. Not thread-safe.
class ResultWriter {
 public:
  // Borrows all. `errors` null: failures go to the output too.
  ResultWriter(ResultFile& output, ResultFile* errors, bool ordered, Mailbox& mailbox)
      : output_(output), errors_(errors), ordered_(ordered), mailbox_(mailbox) {}

  // `bytes` are the line's own. Throws CommandError if the file cannot be written.
  void write(std::int64_t sequence, std::size_t bytes, bool failed, std::string record);

 private:
  struct Held {
    std::size_t bytes;
    bool failed;
    std::string record;
  };
  void put(const Held& result);

  ResultFile& output_;
  ResultFile* errors_;
  const bool ordered_;
  Mailbox& mailbox_;
  std::int64_t next_ = 0;
  std::map<std::int64_t, Held> held_;
};

}  // namespace moba::batch
