// Any bytes as the body of a request: it is read, or refused with an ApiError, and nothing else.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/openai/api_request.h"
#include "server/openai/json_fields.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moba::openai;
  if (size == 0) return 0;
  const Endpoint endpoint = data[0] % 2 == 0 ? Endpoint::kCompletions : Endpoint::kChatCompletions;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const ApiRequest request = parse_request(endpoint, parse_object(body), {});
    if (!request.prompts.empty() || endpoint == Endpoint::kChatCompletions) prompt_bytes(request);
  } catch (const ApiError& error) {
    to_text(error_json(error));
  }
  return 0;
}
