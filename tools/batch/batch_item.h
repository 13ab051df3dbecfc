// One request of a batch on its way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/openai/api_request.h"
#include "tools/batch/run_id.h"

namespace moba::batch {

// What requests must have in common to share computed pages, and where they stand among others.
// Requests with the same beginning are neighbours in the order of keys.
struct PrefixKey {
  int priority = 0;  // smaller goes first
  std::string root;  // salt and attention: nothing is shared where they differ
  std::string file;  // the prompt_file, which stands before the text
  std::string text;  // of the prompt, or its token ids as bytes

  // Orders by the fields one after another.
  auto operator<=>(const PrefixKey&) const = default;
};

PrefixKey prefix_key(const openai::ApiRequest& request);

// Bytes that the prompts of both begin with, as far as that makes it worth computing them together:
// all of a common file count as very many. 0 where nothing can be shared.
std::size_t shared_bytes(const PrefixKey& a, const PrefixKey& b);

struct BatchItem {
  std::int64_t line_number = 0;
  ResultId id;
  std::string custom_id;
  openai::ApiRequest request;
  PrefixKey key;
};

// A line of the input that was read: a request, or the record that says why it is none. Each has a
// place among the results, in the order of the input.
struct ReadLine {
  std::int64_t sequence = 0;
  std::size_t bytes = 0;  // of memory that it takes until its result is written, about
  std::unique_ptr<BatchItem> item;
  std::string failure;  // a line of the error file, if there is no item
};

}  // namespace moba::batch
