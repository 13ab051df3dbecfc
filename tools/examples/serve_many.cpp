// Many requests at once on one engine: serve_many MODEL_DIR [PROMPT...]
//
// Every prompt is submitted right away; the engine computes them together. The first is streamed,
// the others are waited for.
#include <moba/engine.h>
#include <moba/settings.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

int refused(const moba::Status& status) {
  std::fprintf(stderr, "serve_many: %s\n", status.message().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: serve_many MODEL_DIR [PROMPT...]\n");
    return 2;
  }
  std::vector<std::string> prompts(argv + 2, argv + argc);
  if (prompts.empty()) prompts = {"It was a dark and stormy night", "My dear sir", "The sea"};

  // Settings may come from the program, from JSON, or both; see docs/cli.md for their names.
  moba::Configuration configuration;
  const moba::Status added = configuration.add_json(R"({
    "max_model_len": 4096,
    "sampling": {"temperature": 0.8, "top_p": 0.95, "seed": 7, "max_tokens": 40}
  })");
  if (!added.ok()) return refused(added);
  moba::EngineConfig config = configuration.engine();
  config.model = argv[1];
  auto created = moba::Engine::create(config);
  if (!created.ok()) return refused(created.status());
  const std::unique_ptr<moba::Engine> engine = std::move(created.value());

  moba::Request request;
  request.sampling = configuration.sampling(engine->default_sampling());
  request.prompt = prompts[0];
  auto stream = engine->stream(request);
  if (!stream.ok()) return refused(stream.status());
  std::vector<moba::RequestHandle> others;
  for (std::size_t i = 1; i < prompts.size(); ++i) {
    request.prompt = prompts[i];
    auto handle = engine->submit(request);
    if (!handle.ok()) return refused(handle.status());
    others.push_back(handle.value());
  }

  std::printf("%s", prompts[0].c_str());
  while (const auto token = stream.value().next()) {
    std::printf("%s", token->text.c_str());
    std::fflush(stdout);
  }
  std::printf("\n");
  if (!stream.value().result().ok()) return refused(stream.value().result().status());
  for (std::size_t i = 0; i < others.size(); ++i) {
    const moba::Result<moba::RequestOutput>& output = others[i].wait();
    if (!output.ok()) return refused(output.status());
    std::printf("\n%s%s\n", prompts[i + 1].c_str(), output.value().text.c_str());
  }
  const moba::EngineStats stats = engine->stats();
  std::fprintf(stderr, "%lld tokens in %lld steps\n",
               static_cast<long long>(stats.num_output_tokens),
               static_cast<long long>(stats.num_steps));
  return 0;
}
