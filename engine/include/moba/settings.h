// Settings by name, as configuration files, the command line and the C interface give them. The
// names are those of docs/library.md; values are JSON.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moba/config.h"
#include "moba/export.h"
#include "moba/request.h"
#include "moba/sampling_params.h"
#include "moba/status.h"

namespace moba {

// One setting as it was given.
struct SettingValue {
  std::string key;        // "moba_topk": without a section, never an alias
  std::string value;      // JSON
  bool is_text = false;   // `value` is no JSON but the text itself, whatever its bytes
  std::string origin;     // where it was given, for messages: "engine.json: attention.moba_topk"
  bool sampling = false;  // it is of SamplingParams, not of EngineConfig
};

// Settings of an engine and of sampling from any number of places; later ones win. A value: copies
// are independent; one thread at a time may change it.
//
// A key stands at the top level or in the object named after its section ("attention", "cache",
// "scheduler", "sampling"). Everything is checked when it is added, and refused as a whole with
// kInvalidArgument and one line that names the source and the key: what is not JSON, an unknown
// key, a key given twice in one source, a value of the wrong type. Ranges are the engine's to
// check.
class MOBA_API Configuration {
 public:
  // A JSON object of at most 1 MiB; it may hold // comments and a "description". `source` names it
  // in messages.
  Status add_json(std::string_view json, const std::string& source = "configuration");
  Status add_file(const std::string& path);
  // One setting: "moba_topk", or with its section "attention.moba_topk". `json` is its value: 4,
  // "last:3" with its quotes, [2, 13]. `origin` names it in messages; "": the key does.
  Status set(std::string_view key, std::string_view json, const std::string& origin = "");
  // The same for a text as it is, without quotes: a path may hold bytes that JSON cannot.
  Status set_text(std::string_view key, std::string_view text, const std::string& origin = "");

  // The settings over `base`.
  EngineConfig engine(EngineConfig base = {}) const;
  // The same; Engine::default_sampling() is the usual base.
  SamplingParams sampling(SamplingParams base = {}) const;

  // In the order in which they were added.
  const std::vector<SettingValue>& values() const { return values_; }

 private:
  std::vector<SettingValue> values_;
};

// All settings as a JSON object that Configuration::add_json() reads back.
MOBA_API std::string to_json(const EngineConfig& config);
MOBA_API std::string to_json(const SamplingParams& params);

// Sets what `key` names in a request: a sampling setting by the name it has in a configuration, or
// "n"; "attention", "moba_topk", "full_attention_layers" and "decode_attention", where null takes
// the engine's; "cache_salt", "priority", "timeout_seconds" (null: no limit),
// "parse_special_tokens", "prompt", "prompt_ids". kInvalidArgument names the key.
MOBA_API Status set_request_field(Request& request, std::string_view key, std::string_view json);
// Every key of a JSON object; on an error the request is as it was.
MOBA_API Status set_request_fields(Request& request, std::string_view json);

// A number of bytes: "1000", "512M", "1.5GiB". As in coreutils K, M, G and T, with or without iB,
// are powers of 1024, and KB, MB, GB and TB powers of 1000; letter case does not matter.
MOBA_API Result<std::int64_t> parse_size(std::string_view text);

}  // namespace moba
