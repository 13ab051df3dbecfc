#include "engine/request_fields.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "engine/json_text.h"
#include "engine/json_values.h"
#include "engine/setting_names.h"
#include "engine/setting_table.h"
#include "engine/status_error.h"
#include "moba/settings.h"

namespace moba {
namespace {

using namespace json_values;  // NOLINT(google-build-using-namespace): the readers of the table

struct RequestField {
  std::string_view key;
  void (*set)(Request& request, const Json& value);
};

// null: absent.
template <typename F>
auto nullable(const Json& value, F item) -> std::optional<std::invoke_result_t<F, const Json&>> {
  if (value.is_null()) return std::nullopt;
  return item(value);
}

AttentionMode as_mode(const Json& value) { return from_name(value, attention_mode_names()); }
DecodeAttention as_decode(const Json& value) { return from_name(value, decode_attention_names()); }

constexpr std::array kFields{
    RequestField{"prompt", [](Request& r, const Json& v) { r.prompt = as_string(v); }},
    RequestField{"prompt_ids",
                 [](Request& r, const Json& v) {
                   if (!v.is_array()) expected("a list of token ids", v);
                   r.prompt_ids = as_list(v, as_token_id);
                 }},
    RequestField{"parse_special_tokens",
                 [](Request& r, const Json& v) { r.parse_special_tokens = as_bool(v); }},
    RequestField{"attention",
                 [](Request& r, const Json& v) { r.attention.mode = nullable(v, as_mode); }},
    RequestField{"moba_topk",
                 [](Request& r, const Json& v) { r.attention.moba_topk = nullable(v, as_int); }},
    RequestField{"full_attention_layers",
                 [](Request& r, const Json& v) {
                   r.attention.full_attention_layers = nullable(v, as_layers);
                 }},
    RequestField{"decode_attention",
                 [](Request& r, const Json& v) { r.attention.decode = nullable(v, as_decode); }},
    RequestField{"cache_salt", [](Request& r, const Json& v) { r.cache_salt = as_string(v); }},
    RequestField{"priority", [](Request& r, const Json& v) { r.priority = as_int(v); }},
    RequestField{"timeout_seconds",
                 [](Request& r, const Json& v) { r.timeout_seconds = nullable(v, as_double); }},
    RequestField{"n", [](Request& r, const Json& v) { r.sampling.n = as_int(v); }},
};

[[noreturn]] void unknown(std::string_view key) {
  std::vector<std::string_view> keys;
  for (const RequestField& field : kFields) keys.push_back(field.key);
  for (const SettingRow& row : setting_rows()) {
    if (row.sampling) keys.push_back(row.key);
  }
  throw Error("unknown key " + shown_text(key) + " of a request" + suggest_key(key, keys));
}

void assign(Request& request, std::string_view key, const Json& value) {
  for (const RequestField& field : kFields) {
    if (field.key == key) return field.set(request, value);
  }
  const SettingRow* row = find_setting_row("sampling", key);
  if (row == nullptr) unknown(key);
  SettingTargets targets;
  targets.sampling = request.sampling;
  row->set(targets, value);
  request.sampling = std::move(targets.sampling);
}

template <typename Body>
Status checked(Body&& body) {
  return status_of(StatusCode::kInvalidArgument, std::forward<Body>(body));
}

}  // namespace

void assign_request_field(Request& request, std::string_view key, const Json& value) {
  try {
    assign(request, key, value);
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.starts_with("unknown key ")) throw;
    throw Error(std::string(key) + ": " + message);
  }
}

Status set_request_field(Request& request, std::string_view key, std::string_view json) {
  return checked(
      [&] { assign_request_field(request, key, Json(parse_json_text(json, std::string(key)))); });
}

Status set_request_fields(Request& request, std::string_view json) {
  return checked([&] {
    const nlohmann::ordered_json fields = parse_json_text(json, "request");
    MOBA_CHECK(fields.is_object(), "request: expected a JSON object of fields");
    Request changed = request;
    for (const auto& [key, value] : fields.items()) {
      assign_request_field(changed, key, Json(value));
    }
    request = std::move(changed);
  });
}

}  // namespace moba
