// The source tree keeps the rules of house_rules.h, and each rule notices a tree that breaks it.
#include "tests/catch.h"
#include "tests/house/house_rules.h"
#include "tests/house/source_text.h"

namespace moba::house {
namespace {

// Files that may be longer than the rest, and why each is one purpose all the same.
const std::map<std::string, std::string> kLongFiles = {};

std::string listed(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) text += to_string(finding) + "\n";
  return text;
}

// What one rule says of a small tree, one finding a line.
std::string includes(const Tree& tree) { return listed(check_includes(tree)); }
std::string text(const Tree& tree) { return listed(check_text(tree)); }
std::string files(const Tree& tree) { return listed(check_files(tree, {})); }

// A tree with a header for each floor and one file more.
Tree tree_with(const std::string& path, const std::string& content) {
  Tree tree;
  for (const char* header :
       {"device/tensor.h", "tokenizer/bpe.h", "kvcache/paged_kv_view.h", "kvcache/kv_pool.h",
        "attention/gate.h", "model/llama.h", "engine/scheduler.h", "engine/include/moba/engine.h",
        "server/http.h", "tools/args.h", "tools/bench/timer.h", "tests/catch.h"}) {
    tree[header] = "#pragma once\n";
  }
  tree[path] = content;
  return tree;
}

std::string edge(const std::string& from, const std::string& to) {
  return includes(tree_with(from, "#pragma once\n#include \"" + to + "\"\n"));
}

}  // namespace

TEST_CASE("the source tree keeps the rules of the house") {
  const Tree tree = read_tree(MOBA_SOURCE_DIR);
  REQUIRE(tree.count("device/tensor.h") == 1);  // it is the tree
  CHECK(listed(check_includes(tree)) == "");
  CHECK(listed(check_text(tree)) == "");
  CHECK(listed(check_files(tree, kLongFiles)) == "");
  CHECK(listed(check_links(tree)) == "");
}

TEST_CASE("a folder includes what stands below it") {
  CHECK(edge("kvcache/new.h", "device/tensor.h") == "");
  CHECK(edge("attention/new.h", "kvcache/paged_kv_view.h") == "");
  CHECK(edge("model/new.h", "attention/gate.h") == "");
  CHECK(edge("engine/new.h", "model/llama.h") == "");
  CHECK(edge("engine/new.h", "moba/engine.h") == "");
  CHECK(edge("engine/include/moba/new.h", "moba/engine.h") == "");
  CHECK(edge("tools/new.h", "moba/engine.h") == "");
  CHECK(edge("tools/bench/new.h", "attention/gate.h") == "");
  CHECK(edge("tests/new.h", "tools/bench/timer.h") == "");
}

TEST_CASE("an include that climbs is found, with its line") {
  CHECK(edge("kvcache/new.h", "model/llama.h") ==
        "kvcache/new.h:2: kvcache/ may not include model/llama.h (device/ and itself stand below "
        "it)\n");
  CHECK(edge("device/new.h", "kvcache/kv_pool.h") != "");
  CHECK(edge("tokenizer/new.h", "device/tensor.h") != "");
  CHECK(edge("attention/new.h", "kvcache/kv_pool.h") != "");
  CHECK(edge("model/new.h", "tokenizer/bpe.h") != "");
  CHECK(edge("model/new.h", "moba/engine.h") != "");
  CHECK(edge("engine/new.h", "server/http.h") != "");
  CHECK(edge("engine/include/moba/new.h", "engine/scheduler.h") != "");
  CHECK(edge("server/new.h", "engine/scheduler.h") != "");
  CHECK(edge("tools/new.h", "device/tensor.h") != "");
  CHECK(edge("tools/bench/new.h", "tests/catch.h") != "");
  // Angle brackets, spaces and text around it hide nothing; comments and strings are no includes.
  CHECK(includes(tree_with("device/a.cpp", "  #  include <kvcache/kv_pool.h>  // why\n")) != "");
  CHECK(includes(tree_with("device/a.cpp",
                           "// #include \"kvcache/kv_pool.h\"\n/*\n#include \"model/llama.h\"\n"
                           "*/\nconst char* s = R\"(\n)\";\n")) == "");
}

TEST_CASE("includes are written from the root, and public headers need the standard library only") {
  CHECK(edge("device/new.h", "tensor.h") != "");
  CHECK(edge("device/new.h", "../device/tensor.h") != "");
  CHECK(includes(tree_with("engine/include/moba/a.h",
                           "#include <vector>\n#include <stdint.h>\n")) == "");
  CHECK(includes(tree_with("engine/include/moba/a.h", "#include <nlohmann/json.hpp>\n")) != "");
  CHECK(includes(tree_with("engine/include/moba/a.h", "#include <spdlog.h>\n")) != "");
}

TEST_CASE("a circle of headers is found") {
  Tree tree = {{"device/a.h", "#include \"device/b.h\"\n"},
               {"device/b.h", "#include \"device/c.h\"\n"},
               {"device/c.h", "#include <vector>\n"}};
  CHECK(includes(tree) == "");
  tree["device/c.h"] = "#include <vector>\n#include \"device/a.h\"\n";
  CHECK(includes(tree) == "device/c.h:2: including device/a.h closes a circle\n");
}

TEST_CASE("CUDA, intrinsics and environment variables stay in their places") {
  CHECK(text({{"device/ops.cpp", "auto* p = cudaMalloc(1);\n"}}) != "");
  CHECK(text({{"device/ops.cpp", "#include <cuda_runtime.h>\n"}}) != "");
  CHECK(text({{"device/ops.cpp", "int x;\n#ifdef MOBA_CUDA\n#endif\n"}}) ==
        "device/ops.cpp:2: a backend is a folder that is linked or not, never a preprocessor "
        "condition\n");
  CHECK(text({{"device/ops.cpp", "__global__ void f();\n"}}) != "");
  CHECK(text({{"device/ops.cpp", "#if __CUDA_ARCH__ >= 900\n#endif\n"}}) != "");
  CHECK(text({{"device/cuda/a.cu", "#if __CUDA_ARCH__ >= 900\n#endif\n"}}) == "");
  CHECK(text({{"device/cuda/a.cu", "#if MOBA_CUDA\n#endif\n"}}) != "");
  CHECK(text({{"device/cuda/ops_cuda.cpp", "#include <cuda_runtime.h>\ncudaFree(p);\n"}}) == "");
  CHECK(text({{"device/ops.cpp", "cuda::rms_norm(x); auto d = Device::kCuda; // cudaMalloc\n"}}) ==
        "");

  CHECK(text({{"device/ops.cpp", "#include <immintrin.h>\n"}}) != "");
  CHECK(text({{"device/cpu/ops_cpu.cpp", "#include <immintrin.h>\n"}}) == "");

  CHECK(text({{"engine/engine.cpp", "const char* v = std::getenv(\"X\");\n"}}) != "");
  CHECK(text({{"tools/main.cpp", "const char* v = std::getenv(\"X\");\n"}}) == "");
  CHECK(text({{"engine/engine.cpp", "int n = 1'000; auto s = \"getenv \\\" getenv\";\n"}}) == "");

  CHECK(text({{"device/a.h", "int x;\n"}}) == "device/a.h: a header starts with #pragma once\n");
}

TEST_CASE("code stands where a build finds it") {
  const std::string list = "moba_add_folder(device SOURCES ops.cpp cpu/ops_cpu.cpp)\n";
  CHECK(files({{"device/CMakeLists.txt", list},
               {"device/ops.cpp", ""},
               {"device/cpu/ops_cpu.cpp", ""}}) == "");
  CHECK(files({{"device/CMakeLists.txt", list}, {"device/more_ops.cpp", ""}}) ==
        "device/more_ops.cpp: no CMakeLists.txt beside or above it names it\n");
  CHECK(files({{"device/CMakeLists.txt", list}, {"device/ops_cpu.cpp", ""}}) != "");
  CHECK(files({{"docs/example.cpp", ""}}) != "");
  CHECK(files({{"configs/make.py", ""}}) != "");
  CHECK(files({{"utils/strings.h", ""}}) != "");
  CHECK(files({{"main.cpp", ""}}) != "");
  CHECK(files({{"configs/cpu.json", ""}, {"docs/page.md", ""}, {"README.md", ""}}) == "");
  CHECK(files({{"device/kernels.cuh", ""}}) != "");
  CHECK(files({{"device/cuda/kernels.cuh", ""}}) == "");
}

TEST_CASE("long files need a reason, and only as long as they are long") {
  std::string content;
  for (int i = 0; i < 600; ++i) content += "\n";
  CHECK(files({{"device/a.h", content}}) == "");
  CHECK(files({{"device/a.h", content + "int x;"}}) ==
        "device/a.h: 601 lines, over 600: cut it by purpose\n");
  CHECK(listed(check_files({{"device/a.h", content + "int x;"}}, {{"device/a.h", "why"}})) == "");
  CHECK(listed(check_files({{"device/a.h", content}}, {{"device/a.h", "why"}})) != "");
  CHECK(listed(check_files({}, {{"device/a.h", "why"}})) != "");
}

TEST_CASE("links between pages lead to files") {
  const Tree pages = {
      {"README.md", "See [a](docs/a.md), [b](docs/a.md#part), [c](docs).\n"},
      {"docs/a.md", "[home](../README.md) [web](https://example.org) [here](#x)\n"}};
  CHECK(listed(check_links(pages)) == "");
  CHECK(listed(check_links({{"docs/a.md", "\n[one](a.md) [two](b.md)\n"}})) ==
        "docs/a.md:2: no file b.md\n");
}

}  // namespace moba::house
