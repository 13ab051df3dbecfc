#include "tools/batch/result_writer.h"

#include <utility>

namespace moba::batch {

void ResultWriter::put(const Held& result) {
  ResultFile& file = result.failed && errors_ != nullptr ? *errors_ : output_;
  file.append(result.record);
  mailbox_.release(result.bytes);
}

void ResultWriter::write(std::int64_t sequence, std::size_t bytes, bool failed,
                         std::string record) {
  if (!ordered_) return put({bytes, failed, std::move(record)});
  if (sequence != next_) {
    const std::size_t more = record.size();
    mailbox_.hold(more);
    held_.emplace(sequence, Held{bytes + more, failed, std::move(record)});
    return;
  }
  put({bytes, failed, std::move(record)});
  ++next_;
  for (auto it = held_.begin(); it != held_.end() && it->first == next_; ++next_) {
    put(it->second);
    it = held_.erase(it);
  }
}

}  // namespace moba::batch
