#include "engine/logging.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <utility>

#include "moba/log.h"

namespace moba {
namespace {

constexpr const char* kName = "moba";

// Hands lines to a LogHandler, one at a time.
class HandlerSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit HandlerSink(LogHandler handler) : handler_(std::move(handler)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    handler_(level_of(message.level),
             std::string_view(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}

  static LogLevel level_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::trace:
      case spdlog::level::debug:
        return LogLevel::kDebug;
      case spdlog::level::info:
        return LogLevel::kInfo;
      case spdlog::level::warn:
        return LogLevel::kWarning;
      default:
        return LogLevel::kError;
    }
  }

  LogHandler handler_;
};

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

std::shared_ptr<spdlog::logger> stderr_logger() {
  auto logger =
      std::make_shared<spdlog::logger>(kName, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%n: %l: %v");
  logger->set_level(spdlog::level::warn);
  return logger;
}

}  // namespace

std::shared_ptr<spdlog::logger> engine_logger() {
  if (auto logger = spdlog::get(kName)) return logger;
  auto logger = stderr_logger();
  try {
    spdlog::register_logger(logger);
  } catch (const spdlog::spdlog_ex&) {
    // Another thread was first.
    if (auto registered = spdlog::get(kName)) return registered;
  }
  return logger;
}

void set_log_level(LogLevel level) { engine_logger()->set_level(to_spdlog(level)); }

void set_log_handler(LogHandler handler) {
  std::shared_ptr<spdlog::logger> logger =
      handler ? std::make_shared<spdlog::logger>(kName,
                                                 std::make_shared<HandlerSink>(std::move(handler)))
              : stderr_logger();
  logger->set_level(engine_logger()->level());
  spdlog::drop(kName);
  try {
    spdlog::register_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex&) {
    // Another thread set one at the same moment; theirs stays.
  }
}

}  // namespace moba
