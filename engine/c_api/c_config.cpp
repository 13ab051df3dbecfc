#include <array>
#include <charconv>
#include <cmath>

#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"
#include "moba/log.h"
#include "moba/version.h"

namespace {

using moba::Status;
using moba::StatusCode;
using moba::StatusError;
using moba::c_api::fail;
using moba::c_api::guarded;
using moba::c_api::require;

// Sets a value that is already JSON.
moba_status set_json(moba_config* config, const char* key, std::string_view json) {
  require(config, "config");
  require(key, "key");
  return moba::c_api::to_c(config->configuration.set(key, json));
}

}  // namespace

uint32_t moba_abi_version(void) { return MOBA_ABI_VERSION; }

const char* moba_version(void) { return moba::version(); }

moba_status moba_set_log_level(int32_t level) {
  return guarded([&] {
    if (level < MOBA_LOG_DEBUG || level > MOBA_LOG_OFF) {
      return fail(MOBA_INVALID_ARGUMENT,
                  "level is " + std::to_string(level) + ", not one of MOBA_LOG_...");
    }
    moba::set_log_level(static_cast<moba::LogLevel>(level));
    return MOBA_OK;
  });
}

moba_status moba_set_log_callback(moba_log_callback callback, void* user_data) {
  return guarded([&] {
    moba::LogHandler handler;
    if (callback != nullptr) {
      handler = [callback, user_data](moba::LogLevel level, std::string_view message) {
        callback(user_data, static_cast<int32_t>(level), std::string(message).c_str());
      };
    }
    moba::set_log_handler(std::move(handler));
    return MOBA_OK;
  });
}

moba_status moba_config_create(moba_config** out) {
  return guarded([&] {
    require(out, "out");
    *out = new moba_config();
    return MOBA_OK;
  });
}

void moba_config_destroy(moba_config* config) { delete config; }

moba_status moba_config_set_string(moba_config* config, const char* key, const char* value) {
  return guarded([&] {
    require(config, "config");
    require(key, "key");
    require(value, "value");
    return moba::c_api::to_c(config->configuration.set_text(key, value));
  });
}

moba_status moba_config_set_int(moba_config* config, const char* key, int64_t value) {
  return guarded([&] { return set_json(config, key, std::to_string(value)); });
}

moba_status moba_config_set_double(moba_config* config, const char* key, double value) {
  return guarded([&] {
    if (!std::isfinite(value)) {
      require(key, "key");
      return fail(MOBA_INVALID_ARGUMENT, std::string(key) + ": expected a finite number");
    }
    std::array<char, 32> text{};
    const auto written = std::to_chars(text.data(), text.data() + text.size(), value);
    return set_json(config, key,
                    {text.data(), static_cast<std::size_t>(written.ptr - text.data())});
  });
}

moba_status moba_config_set_bool(moba_config* config, const char* key, bool value) {
  return guarded([&] { return set_json(config, key, value ? "true" : "false"); });
}

moba_status moba_config_set_json(moba_config* config, const char* key, const char* value) {
  return guarded([&] {
    require(value, "value");
    return set_json(config, key, value);
  });
}

moba_status moba_config_add_json(moba_config* config, const char* json) {
  return guarded([&] {
    require(config, "config");
    require(json, "json");
    return moba::c_api::to_c(config->configuration.add_json(json));
  });
}

moba_status moba_config_add_file(moba_config* config, const char* path) {
  return guarded([&] {
    require(config, "config");
    require(path, "path");
    return moba::c_api::to_c(config->configuration.add_file(path));
  });
}

moba_status moba_config_to_json(const moba_config* config, char** out) {
  return guarded([&] {
    require(config, "config");
    require(out, "out");
    *out = moba::c_api::copy_text(moba::to_json(config->configuration.engine()));
    return MOBA_OK;
  });
}
