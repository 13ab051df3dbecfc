#include "server/http/metrics.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "server/http/prometheus_text.h"

namespace moba::server {
namespace {

using Labels = PrometheusText::Labels;

// Resident memory of this process in bytes; 0 where the system does not say.
double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t total = 0;
  std::int64_t resident = 0;
  file >> total >> resident;
  return file ? static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) : 0;
}

double open_descriptors() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end;
       it.increment(error)) {
    ++count;
  }
  return count;
}

double as_double(std::int64_t value) { return static_cast<double>(value); }

void write_engine(const Engine& engine, const Labels& labels, PrometheusText& out) {
  const EngineStats stats = engine.stats();
  const auto gauge = [&](const char* name, const char* help, double value) {
    out.family(name, "gauge", help);
    out.sample(labels, value);
  };
  const auto counter = [&](const char* name, const char* help, std::int64_t value) {
    out.family(name, "counter", help);
    out.sample(labels, as_double(value));
  };
  const auto histogram = [&](const char* name, const char* help, const LatencyHistogram& values) {
    out.family(name, "histogram", help);
    out.histogram(labels, values);
  };
  gauge("moba:num_requests_running", "Sequences that take part in steps.",
        as_double(stats.num_running));
  gauge("moba:num_requests_waiting", "Sequences that wait for their turn.",
        as_double(stats.num_waiting));
  gauge("moba:kv_cache_usage_perc", "Part of the KV cache that sequences hold, 0 to 1.",
        stats.num_pages > 0 ? as_double(stats.num_pages_in_use) / as_double(stats.num_pages) : 0);
  gauge("moba:num_pages_cached", "Pages kept for prompts with the same beginning.",
        as_double(stats.num_pages_cached));
  counter("moba:prefix_cache_queries_total", "Tokens looked up in the prefix cache.",
          stats.num_prefix_lookup_tokens);
  counter("moba:prefix_cache_hits_total", "Tokens found in the prefix cache.",
          stats.num_prefix_hit_tokens);
  counter("moba:prefix_cache_evicted_pages_total", "Pages that left the prefix cache.",
          stats.num_evicted_pages);
  counter("moba:num_preemptions_total", "Sequences that gave up their place for another.",
          stats.num_preemptions);
  counter("moba:prompt_tokens_total", "Tokens of prompts that were read.", stats.num_prompt_tokens);
  counter("moba:generation_tokens_total", "Tokens that were generated.", stats.num_output_tokens);
  counter("moba:engine_steps_total", "Steps of the engine.", stats.num_steps);
  counter("moba:requests_refused_total", "Requests that the engine did not take.",
          stats.num_refused);
  counter("moba:requests_cancelled_total", "Requests that their clients gave up.",
          stats.num_cancelled);
  counter("moba:requests_expired_total", "Requests that reached their time limit.",
          stats.num_expired);
  counter("moba:requests_failed_total", "Requests that ended with an error.", stats.num_failed);
  counter("moba:blocks_selected_total",
          "MoBA blocks attended to, over layers, query tokens and heads.",
          stats.moba_blocks_attended);
  counter("moba:blocks_available_total", "MoBA blocks that there were to select from.",
          stats.moba_blocks_available);
  histogram("moba:request_queue_time_seconds", "From a request's arrival to its first step.",
            stats.queue_time);
  histogram("moba:time_to_first_token_seconds", "From a request's arrival to its first token.",
            stats.time_to_first_token);
  histogram("moba:inter_token_latency_seconds", "From a token of a sequence to its next.",
            stats.inter_token);
  histogram("moba:e2e_request_latency_seconds", "From a request's arrival to its end.",
            stats.end_to_end);
  histogram("moba:engine_step_seconds", "From a step's launch to its result.", stats.step_time);
}

}  // namespace

std::string Metrics::text(const Engine* engine, const std::string& model_name,
                          const Now& now) const {
  PrometheusText out;
  const Labels labels{{"model_name", model_name}};
  if (engine != nullptr) write_engine(*engine, labels, out);
  out.family("moba:request_success_total", "counter",
             "Requests to the engine that ended, by the reason.");
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    const auto it = finished_.find(reason);
    Labels with_reason = labels;
    with_reason.emplace_back("finished_reason", reason);
    out.sample(with_reason, it == finished_.end() ? 0 : as_double(it->second));
  }
  out.family("moba:http_requests_total", "counter", "Answers, by route, method and status.");
  for (const auto& [key, count] : responses_) {
    const auto& [route, method, status] = key;
    const std::string code = std::to_string(status);
    out.sample({{"handler", route}, {"method", method}, {"status", code}}, as_double(count));
  }
  out.family("moba:http_slow_readers_total", "counter",
             "Clients that were dropped for not taking their answer.");
  out.sample({}, as_double(num_slow_readers_));
  out.family("moba:http_connections", "gauge", "Open connections.");
  out.sample({}, as_double(now.num_connections));
  out.family("moba:http_requests_in_progress", "gauge", "Requests that are being answered.");
  out.sample({}, as_double(now.num_requests));
  out.family("process_resident_memory_bytes", "gauge", "Resident memory in bytes.");
  out.sample({}, resident_bytes());
  out.family("process_open_fds", "gauge", "Open file descriptors.");
  out.sample({}, open_descriptors());
  return out.text();
}

}  // namespace moba::server
