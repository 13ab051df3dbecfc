// How results say which run and which request they belong to.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tools/batch/hash.h"

namespace moba::batch {

// The "id" of a result: "batch_req_", 16 digits for the run (everything but the input that decides
// what comes out) and 16 for the line of the input. So an output file tells by itself whose it is.
struct ResultId {
  std::uint64_t run = 0;
  std::uint64_t line = 0;

  std::string text() const;
  // Absent for a text of another form.
  static std::optional<ResultId> parse(std::string_view text);
};

// The hash of a line's text, for ResultId::line.
std::uint64_t line_hash(std::string_view text);

// What stands for a request in a DoneIndex: its custom_id or, for a line that has none or one that
// another line has, its number.
Hash128 key_of_id(std::string_view custom_id);
Hash128 key_of_line(std::int64_t number);

// How every line of the run's results begins.
std::string record_start(std::uint64_t run);

}  // namespace moba::batch
