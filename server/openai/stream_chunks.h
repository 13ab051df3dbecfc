// An answer in pieces, as the API streams it: server-sent events.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moba/tokenizer.h"
#include "server/openai/api_request.h"
#include "server/openai/api_response.h"

namespace moba::openai {

// A token of a choice, and the text that became complete with it.
struct ChunkToken {
  std::int32_t token_id = 0;
  std::string text;
  std::optional<TokenLogprob> logprob;
};

// Writes the chunks of one request. Each method appends whole events ("data: {...}\n\n") to `out`;
// a choice's come in the order begin, tokens, finish. Borrows request and tokenizer.
class ChunkWriter {
 public:
  ChunkWriter(const ApiRequest& request, const ResponseInfo& info,
              const TokenizerHandle& tokenizer);

  bool has_begun(std::size_t choice) const { return choices_[choice].begun; }
  // A chat's role; of a completion with echo the prompt, with its log probabilities where they were
  // asked for. Nothing else.
  void begin(std::size_t choice, const std::vector<std::int32_t>& prompt_ids,
             const std::vector<TokenLogprob>& prompt_logprobs, std::string& out);
  // A token without text, log probability or id to show gives nothing.
  void token(std::size_t choice, const ChunkToken& token, std::string& out);
  // `text` is the whole text of the choice: what the tokens did not bring comes first.
  void finish(std::size_t choice, std::string_view text, FinishReason reason,
              const std::string& stop_reason, std::string& out);
  // Of include_usage; nothing otherwise.
  void usage(const std::vector<const RequestOutput*>& outputs, std::string& out) const;

 private:
  struct Choice {
    bool begun = false;
    std::size_t text_bytes = 0;           // sent
    std::int64_t logprob_characters = 0;  // for text_offset
  };

  // "data: {... "choices":[{"index":I,"
  void open(std::size_t choice, std::string& out) const;
  void close(std::string& out) const;
  void append_text(std::size_t choice, std::string_view text, std::string& out);
  void append_chunk(std::size_t choice, std::string_view text, const OrderedJson& logprobs,
                    const OrderedJson& more, std::string& out);
  OrderedJson logprobs_of(std::size_t choice, const ChunkToken& token);

  const ApiRequest& request_;
  const TokenizerHandle& tokenizer_;
  const bool chat_;
  const bool with_logprobs_;
  std::string head_;  // of every event, up to the index of the choice
  std::vector<Choice> choices_;
};

// {"error": ...} as an event.
std::string error_event(const ApiError& error);

inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

}  // namespace moba::openai
