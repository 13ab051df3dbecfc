#include "server/openai/sampling_fields.h"

#include <charconv>
#include <limits>
#include <utility>

namespace moba::openai {
namespace {

template <typename T, typename U>
void set_if(T& target, const std::optional<U>& value) {
  if (value) target = *value;
}

constexpr std::size_t kMaxStopStrings = 256;
constexpr std::size_t kMaxStopBytes = std::size_t{64} << 10;

// Each token's text is compared with all of them.
std::vector<std::string> checked_stop(std::vector<std::string> stop) {
  std::size_t bytes = 0;
  for (const std::string& text : stop) bytes += text.size();
  if (stop.size() > kMaxStopStrings || bytes > kMaxStopBytes) {
    refuse("stop", "stop has " + std::to_string(stop.size()) + " strings of " +
                       std::to_string(bytes) + " bytes in all, and " +
                       std::to_string(kMaxStopStrings) + " of " + std::to_string(kMaxStopBytes) +
                       " are the limit");
  }
  return stop;
}

std::map<std::int32_t, float> read_logit_bias(const Json& value) {
  if (!value.is_object()) {
    refuse("logit_bias",
           "logit_bias must be an object of token ids and numbers, not " + kind_of(value));
  }
  std::map<std::int32_t, float> biases;
  for (const auto& [key, bias] : value.items()) {
    std::int32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      refuse("logit_bias", "logit_bias: " + in_quotes(key) + " is no token id");
    }
    biases[id] = to_number(bias, "logit_bias." + key);
  }
  return biases;
}

// Fields that ask for something that would be wrong to leave out in silence.
void refuse_unsupported(Fields& fields) {
  for (const char* name : {"tools", "functions"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && !(value->is_array() && value->empty())) {
      refuse(name, std::string(name) + " are not supported");
    }
  }
  for (const char* name : {"tool_choice", "function_call"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && *value != "none" && *value != "auto") {
      refuse(name, std::string(name) + " is not supported");
    }
  }
  if (const Json* format = fields.find("response_format")) {
    Fields inner(*format, "response_format");
    const std::string type = inner.string("type").value_or("");
    if (type != "text") {
      refuse("response_format",
             "response_format " + in_quotes(type) + " is not supported, only text");
    }
  }
  for (const char* name :
       {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"}) {
    if (fields.find(name) != nullptr) refuse(name, std::string(name) + " is not supported");
  }
  if (fields.boolean("use_beam_search").value_or(false)) {
    refuse("use_beam_search", "use_beam_search is not supported");
  }
}

void read_sampling(Fields& fields, SamplingParams& params) {
  set_if(params.temperature, fields.number("temperature"));
  set_if(params.top_k, fields.integer("top_k"));
  set_if(params.top_p, fields.number("top_p"));
  set_if(params.min_p, fields.number("min_p"));
  set_if(params.repetition_penalty, fields.number("repetition_penalty"));
  set_if(params.presence_penalty, fields.number("presence_penalty"));
  set_if(params.frequency_penalty, fields.number("frequency_penalty"));
  if (const Json* bias = fields.find("logit_bias")) params.logit_bias = read_logit_bias(*bias);
  if (const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                       std::numeric_limits<std::int64_t>::max())) {
    params.seed = static_cast<std::uint64_t>(*seed);
  }
  set_if(params.n, fields.integer("n"));
  set_if(params.min_tokens, fields.integer("min_tokens"));
  if (auto stop = fields.strings("stop")) params.stop = checked_stop(std::move(*stop));
  set_if(params.include_stop_str_in_output, fields.boolean("include_stop_str_in_output"));
  set_if(params.stop_token_ids, fields.token_ids("stop_token_ids"));
  set_if(params.ignore_eos, fields.boolean("ignore_eos"));
  set_if(params.skip_special_tokens, fields.boolean("skip_special_tokens"));
  if (const auto count = fields.integer("prompt_logprobs")) params.prompt_logprobs = *count;
}

void read_attention(Fields& fields, AttentionOverride& attention) {
  if (const auto mode = fields.string("attention")) {
    if (*mode == "full") {
      attention.mode = AttentionMode::kFull;
    } else if (*mode == "moba") {
      attention.mode = AttentionMode::kMoba;
    } else if (*mode == "auto") {
      attention.mode = AttentionMode::kAuto;
    } else {
      refuse("attention", "attention is " + in_quotes(*mode) + ", not one of auto, full, moba");
    }
  }
  if (const auto topk = fields.integer("moba_topk")) attention.moba_topk = *topk;
}

}  // namespace

void read_common_fields(Fields& fields, ApiRequest& request) {
  refuse_unsupported(fields);
  set_if(request.model, fields.string("model"));
  read_sampling(fields, request.sampling);
  read_attention(fields, request.attention);
  set_if(request.cache_salt, fields.string("cache_salt"));
  set_if(request.priority, fields.integer("priority"));
  set_if(request.return_token_ids, fields.boolean("return_token_ids"));
  set_if(request.stream, fields.boolean("stream"));
  if (const Json* options = fields.find("stream_options")) {
    Fields inner(*options, "stream_options");
    set_if(request.include_usage, inner.boolean("include_usage"));
  }
  // Whoever sends them gets what was asked for.
  fields.ignore({"user", "metadata", "store", "service_tier", "safety_identifier",
                 "prompt_cache_key", "request_id", "parallel_tool_calls",
                 "spaces_between_special_tokens"});
}

}  // namespace moba::openai
