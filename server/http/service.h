// The routes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/api_keys.h"
#include "server/http/exchange.h"
#include "server/http/field_warnings.h"
#include "server/http/generation.h"
#include "server/http/metrics.h"
#include "server/http/options.h"
#include "server/http/ready_list.h"
#include "server/http/served_model.h"
#include "server/http/worker_pool.h"

namespace moba::server {

enum class ServerState { kLoading, kReady, kDraining };

// What the server answers. Belongs to the I/O thread.
class Service {
 public:
  Service(const ServerOptions& options, IoThread& io);

  void set_model(ServedModel model);
  void drain() { state_ = ServerState::kDraining; }
  // Ends the threads; what was posted to them is dropped.
  void stop_workers() { workers_.reset(); }

  // What can be said before the body has come: a refusal, or nothing. `keep` is whether the request
  // came over a connection that may be kept.
  std::optional<HttpResponse> refusal_of(const HttpRequest& head) const;
  // A whole request that was not refused.
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange);

  // Headers that an answer to this request gets beside its own.
  void add_common_headers(const HttpRequest& request, HttpResponse& response) const;
  // The route's path for metrics; "other" for unknown ones.
  static std::string_view route_name(std::string_view path);

  Metrics& metrics() { return metrics_; }
  void set_load(const Metrics::Now& now) { now_ = now; }

 private:
  HttpResponse health() const;
  HttpResponse models(std::string_view path) const;
  void convert_tokens(bool to_tokens, std::string body, const std::shared_ptr<Exchange>& exchange);
  bool origin_allowed(const std::string& origin) const;

  const ServerOptions& options_;
  const ApiKeys keys_;
  ServerState state_ = ServerState::kLoading;
  std::int64_t ready_since_ = 0;
  ServedModel model_;
  Metrics metrics_;
  Metrics::Now now_;
  FieldWarnings warnings_;
  ReadyList ready_;
  IoThread& io_;
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<GenerationContext> generation_context_;  // once there is a model
};

// An answer with an error in the API's shape.
HttpResponse error_response(int status, const std::string& message, const std::string& code = "",
                            const std::string& param = "");

}  // namespace moba::server
