#include "server/http/service.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <exception>
#include <utility>

#include "moba/version.h"
#include "server/http/chat_page.h"
#include "server/openai/json_fields.h"
#include "server/openai/token_requests.h"

namespace moba::server {
namespace {

using openai::ApiError;
using openai::OrderedJson;

constexpr int kInternalError = 500;

struct Route {
  std::string_view path;
  bool is_post = false;
  bool needs_model = false;
  bool needs_key = true;
};

constexpr std::string_view kModels = "/v1/models";

constexpr std::array kRoutes{
    Route{"/", false, false},
    Route{"/chat.css", false, false},
    Route{"/chat.js", false, false},
    Route{"/health", false, false, false},
    Route{"/version", false, false},
    Route{"/metrics", false, false},
    Route{kModels, false, true},
    Route{"/v1/completions", true, true},
    Route{"/v1/chat/completions", true, true},
    Route{"/tokenize", true, true},
    Route{"/detokenize", true, true},
};

// "/v1/models/NAME" is the route of the models.
const Route* find_route(std::string_view path) {
  if (path.substr(0, kModels.size() + 1) == "/v1/models/") path = kModels;
  const auto it = std::find_if(kRoutes.begin(), kRoutes.end(),
                               [path](const Route& route) { return route.path == path; });
  return it == kRoutes.end() ? nullptr : &*it;
}

bool is_json(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return type == "application/json";
}

HttpResponse json_response(const OrderedJson& json) {
  HttpResponse response;
  response.body = openai::to_text(json);
  return response;
}

HttpResponse error_response_of(const ApiError& error) {
  return error_response(error.status(), error.what(), error.code(), error.param());
}

HttpResponse page(std::string_view content, const char* type) {
  HttpResponse response;
  response.content_type = type;
  response.body = content;
  response.headers = {{"Cache-Control", "no-cache"},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Content-Security-Policy",
                       "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"}};
  return response;
}

}  // namespace

HttpResponse error_response(int status, const std::string& message, const std::string& code,
                            const std::string& param) {
  HttpResponse response;
  response.status = status;
  response.body = openai::to_text(openai::error_json(ApiError(status, message, param, code)));
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

Service::Service(const ServerOptions& options, IoThread& io)
    : options_(options),
      keys_(options.api_keys),
      ready_(io),
      io_(io),
      workers_(std::make_unique<WorkerPool>(options.num_workers)) {}

void Service::set_model(ServedModel model) {
  model_ = std::move(model);
  ready_since_ = static_cast<std::int64_t>(std::time(nullptr));
  generation_context_ = std::make_unique<GenerationContext>(
      GenerationContext{model_, options_.model_names, options_.request_timeout, *workers_, io_,
                        ready_, metrics_, warnings_});
  state_ = ServerState::kReady;
}

std::string_view Service::route_name(std::string_view path) {
  const Route* route = find_route(path);
  return route == nullptr ? "other" : route->path;
}

bool Service::origin_allowed(const std::string& origin) const {
  return !origin.empty() &&
         std::any_of(
             options_.allowed_origins.begin(), options_.allowed_origins.end(),
             [&](const std::string& allowed) { return allowed == "*" || allowed == origin; });
}

void Service::add_common_headers(const HttpRequest& request, HttpResponse& response) const {
  if (!origin_allowed(request.origin)) return;
  response.headers.emplace_back("Access-Control-Allow-Origin", request.origin);
  response.headers.emplace_back("Access-Control-Expose-Headers", "x-request-id");
  response.headers.emplace_back("Vary", "Origin");
}

std::optional<HttpResponse> Service::refusal_of(const HttpRequest& head) const {
  const Route* route = find_route(head.path);
  if (head.method == "OPTIONS" && origin_allowed(head.origin)) {
    HttpResponse response;
    response.status = 204;
    response.content_type.clear();
    response.headers = {{"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
                        {"Access-Control-Allow-Headers", "*, Authorization"},
                        {"Access-Control-Max-Age", "600"}};
    return response;
  }
  // Who has no key does not learn which routes there are.
  if ((route == nullptr || route->needs_key) && !keys_.accepts(head.authorization)) {
    HttpResponse response = error_response(401,
                                           head.authorization.empty()
                                               ? "an API key is needed: Authorization: Bearer KEY"
                                               : "the API key is wrong",
                                           "invalid_api_key");
    // Of a page the browser asks for a key.
    const bool browser = head.path == "/";
    response.headers.emplace_back("WWW-Authenticate",
                                  browser ? "Basic realm=\"moba\"" : "Bearer realm=\"moba\"");
    return response;
  }
  if (route == nullptr) {
    return error_response(404,
                          "there is no route " + head.method + " " + openai::in_quotes(head.path),
                          "unknown_url");
  }
  const bool fits =
      route->is_post ? head.method == "POST" : head.method == "GET" || head.method == "HEAD";
  if (!fits) {
    HttpResponse response = error_response(405, "the method of " + std::string(route->path) +
                                                    " is " + (route->is_post ? "POST" : "GET") +
                                                    ", not " + openai::in_quotes(head.method));
    response.headers.emplace_back("Allow", route->is_post ? "POST" : "GET, HEAD");
    return response;
  }
  if (route->needs_model && state_ == ServerState::kLoading) {
    return error_response(503, "the model is being loaded", "loading");
  }
  if (route->needs_model && state_ == ServerState::kDraining) {
    HttpResponse response = error_response(503, "the server is shutting down", "shutting_down");
    response.close = true;
    return response;
  }
  if (!route->is_post) return std::nullopt;
  if (!head.content_encoding.empty() && head.content_encoding != "identity") {
    return error_response(
        415, "content-encoding " + openai::in_quotes(head.content_encoding) + " is not supported");
  }
  if (!is_json(head.content_type)) {
    return error_response(415, "the body must be sent as Content-Type: application/json, not " +
                                   openai::in_quotes(head.content_type));
  }
  return std::nullopt;
}

HttpResponse Service::health() const {
  switch (state_) {
    case ServerState::kLoading:
      return error_response(503, "the model is being loaded", "loading");
    case ServerState::kDraining:
      return error_response(503, "the server is shutting down", "shutting_down");
    case ServerState::kReady:
      break;
  }
  return json_response({{"status", "ok"}});
}

HttpResponse Service::models(std::string_view path) const {
  const EngineInfo& info = model_.engine->info();
  const auto entry = [&](const std::string& name) {
    return OrderedJson{{"id", name},
                       {"object", "model"},
                       {"created", ready_since_},
                       {"owned_by", "moba"},
                       {"root", options_.model_names.front()},
                       {"parent", nullptr},
                       {"max_model_len", info.max_model_len},
                       {"attention", model_.attention},
                       {"moba_block_size", info.moba_block_size},
                       {"chat", model_.chat_template.has_value()}};
  };
  if (path.size() > kModels.size()) {
    const std::string name(path.substr(kModels.size() + 1));
    for (const std::string& known : options_.model_names) {
      if (known == name) return json_response(entry(name));
    }
    return error_response(404, "the model " + openai::in_quotes(name) + " does not exist",
                          "model_not_found", "model");
  }
  OrderedJson list = OrderedJson::array();
  for (const std::string& name : options_.model_names) list.push_back(entry(name));
  return json_response({{"object", "list"}, {"data", std::move(list)}});
}

void Service::convert_tokens(bool to_tokens, std::string body,
                             const std::shared_ptr<Exchange>& exchange) {
  workers_->post([this, to_tokens, text = std::move(body), exchange]() mutable {
    HttpResponse response;
    try {
      const openai::Json json = openai::parse_object(text);
      const openai::PromptContext context{
          model_.engine->tokenizer(), model_.chat_template ? &*model_.chat_template : nullptr, {}};
      response = json_response(
          to_tokens ? openai::tokenize(json, context, model_.engine->info().max_model_len)
                    : openai::detokenize(json, context.tokenizer));
    } catch (const ApiError& error) {
      response = error_response_of(error);
    } catch (const std::exception& error) {
      response = error_response(kInternalError, error.what());
    }
    io_.post([answer = std::move(response), to = std::move(exchange)]() mutable {
      to->respond(std::move(answer));
    });
  });
}

void Service::handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
  const std::string& path = request.path;
  if (const auto endpoint = openai::endpoint_of(path)) {
    std::make_shared<Generation>(*generation_context_, *endpoint, exchange)
        ->start(std::move(request.body));
  } else if (path == "/tokenize" || path == "/detokenize") {
    convert_tokens(path == "/tokenize", std::move(request.body), exchange);
  } else if (path == "/health") {
    exchange->respond(health());
  } else if (path == "/version") {
    exchange->respond(json_response({{"version", version()}}));
  } else if (path == "/metrics") {
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_.text(model_.engine, options_.model_names.front(), now_);
    exchange->respond(std::move(response));
  } else if (path == "/") {
    exchange->respond(page(kChatHtml, "text/html; charset=utf-8"));
  } else if (path == "/chat.css") {
    exchange->respond(page(kChatCss, "text/css; charset=utf-8"));
  } else if (path == "/chat.js") {
    exchange->respond(page(kChatJs, "text/javascript; charset=utf-8"));
  } else {
    exchange->respond(models(path));
  }
}

}  // namespace moba::server
