#include "server/http/access_log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>
#include <stdexcept>

#include "server/openai/api_error.h"

namespace moba::server {
namespace {

constexpr std::size_t kQueuedLines = 8192;

double milliseconds(double seconds) { return std::round(seconds * 1e6) / 1e3; }

}  // namespace

std::string access_line(const AccessRecord& record, double unix_seconds) {
  openai::OrderedJson json{{"time", std::round(unix_seconds * 1e3) / 1e3},
                           {"id", record.request_id},
                           {"remote", record.remote},
                           {"method", record.method},
                           {"path", record.path},
                           {"status", record.status},
                           {"bytes_in", record.bytes_received},
                           {"bytes_out", record.bytes_sent},
                           {"ms", milliseconds(record.seconds)},
                           {"first_byte_ms", milliseconds(record.first_byte_seconds)},
                           {"complete", record.complete}};
  const RequestRecord& request = record.request;
  if (!request.model.empty()) json["model"] = request.model;
  if (request.num_prompt_tokens >= 0) {
    json["prompt_tokens"] = request.num_prompt_tokens;
    json["cached_tokens"] = request.num_cached_tokens;
    json["output_tokens"] = request.num_output_tokens;
  }
  if (!request.finish_reason.empty()) json["finish_reason"] = request.finish_reason;
  if (!request.error.empty()) json["error"] = request.error;
  return openai::to_text(json);
}

AccessLog::AccessLog(const std::string& path) {
  if (path.empty()) return;
  std::shared_ptr<spdlog::sinks::sink> sink;
  try {
    if (path == "-") {
      sink = std::make_shared<spdlog::sinks::stdout_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    }
  } catch (const spdlog::spdlog_ex& error) {
    throw std::runtime_error("access log " + path + ": " + error.what());
  }
  sink->set_pattern("%v");
  auto pool = std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1);
  logger_ = std::make_shared<spdlog::async_logger>("access", sink, pool,
                                                   spdlog::async_overflow_policy::overrun_oldest);
  logger_->flush_on(spdlog::level::info);
  // What cannot be written is lost, in silence.
  logger_->set_error_handler([](const std::string&) {});
  threads_ = std::move(pool);
}

AccessLog::~AccessLog() = default;

void AccessLog::write(const AccessRecord& record) {
  if (logger_ == nullptr) return;
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  logger_->info("{}", access_line(record, now.count()));
}

}  // namespace moba::server
