#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"
#include "engine/request_fields.h"

namespace {

using moba::c_api::guarded;
using moba::c_api::require;
using moba::c_api::text_of;
using Json = nlohmann::json;

moba_status set_field(moba_request* request, const char* key, const Json& value) {
  require(request, "request");
  require(key, "key");
  moba::assign_request_field(request->request, key, value);
  return MOBA_OK;
}

}  // namespace

moba_status moba_request_create(const moba_engine* engine, moba_request** out) {
  return guarded([&] {
    require(out, "out");
    auto request = std::make_unique<moba_request>();
    if (engine != nullptr) request->request.sampling = engine->engine->default_sampling();
    *out = request.release();
    return MOBA_OK;
  });
}

void moba_request_destroy(moba_request* request) { delete request; }

moba_status moba_request_set_prompt(moba_request* request, const char* text, size_t length) {
  return guarded([&] {
    require(request, "request");
    request->request.prompt = text_of(text, length, "text");
    return MOBA_OK;
  });
}

moba_status moba_request_set_prompt_ids(moba_request* request, const int32_t* ids, size_t num_ids) {
  return guarded([&] {
    require(request, "request");
    if (num_ids > 0) require(ids, "ids");
    request->request.prompt_ids.assign(ids, ids + num_ids);
    return MOBA_OK;
  });
}

moba_status moba_request_set_string(moba_request* request, const char* key, const char* value) {
  return guarded([&] {
    require(value, "value");
    return set_field(request, key, Json(value));
  });
}

moba_status moba_request_set_int(moba_request* request, const char* key, int64_t value) {
  return guarded([&] { return set_field(request, key, Json(value)); });
}

moba_status moba_request_set_double(moba_request* request, const char* key, double value) {
  return guarded([&] { return set_field(request, key, Json(value)); });
}

moba_status moba_request_set_bool(moba_request* request, const char* key, bool value) {
  return guarded([&] { return set_field(request, key, Json(value)); });
}

moba_status moba_request_set_json(moba_request* request, const char* key, const char* value) {
  return guarded([&] {
    require(request, "request");
    require(key, "key");
    require(value, "value");
    return moba::c_api::to_c(moba::set_request_field(request->request, key, value));
  });
}

moba_status moba_request_add_json(moba_request* request, const char* json) {
  return guarded([&] {
    require(request, "request");
    require(json, "json");
    return moba::c_api::to_c(moba::set_request_fields(request->request, json));
  });
}

moba_status moba_request_add_stop(moba_request* request, const char* text, size_t length) {
  return guarded([&] {
    require(request, "request");
    request->request.sampling.stop.emplace_back(text_of(text, length, "text"));
    return MOBA_OK;
  });
}

moba_status moba_request_add_stop_token(moba_request* request, int32_t id) {
  return guarded([&] {
    require(request, "request");
    request->request.sampling.stop_token_ids.push_back(id);
    return MOBA_OK;
  });
}

moba_status moba_request_set_logit_bias(moba_request* request, int32_t id, float bias) {
  return guarded([&] {
    require(request, "request");
    request->request.sampling.logit_bias[id] = bias;
    return MOBA_OK;
  });
}

moba_status moba_request_use_config(moba_request* request, const moba_config* config) {
  return guarded([&] {
    require(request, "request");
    require(config, "config");
    request->request.sampling = config->configuration.sampling(request->request.sampling);
    return MOBA_OK;
  });
}
