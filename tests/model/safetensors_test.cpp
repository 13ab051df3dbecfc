#include "model/safetensors.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <string>

#include "tests/catch.h"
#include "tests/model/temp_files.h"
#include "tests/sanitizers.h"

using moba::CheckpointTensor;
using moba::DType;
using moba::Safetensors;
using moba::Shape;
using moba::test::error_of;
using moba::test::is_line_with;
using moba::test::safetensors_file;
using moba::test::TempDir;

namespace {

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   std::uint64_t begin, std::uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

// The error of opening a file of this content; the message must be one line that names the file.
std::string file_error(const std::string& content) {
  const TempDir dir;
  const auto path = dir.write("model.safetensors", content);
  std::string message = error_of([&] { Safetensors{path}; });
  INFO(message);
  CHECK(is_line_with(message, {"model.safetensors"}));
  return message;
}

std::string header_error(const std::string& header, std::size_t data_bytes) {
  return file_error(safetensors_file(header, std::string(data_bytes, '\0')));
}

// Of a file with these tensors, written as `tensor` does and joined by commas.
std::string tensors_error(const std::string& tensors, std::size_t data_bytes) {
  return header_error(std::string(1, '{').append(tensors).append("}"), data_bytes);
}

}  // namespace

TEST_CASE("safetensors: tensors of a file are found where they lie") {
  const TempDir dir;
  std::string data(26, '\0');
  const float one = 1.5F;
  std::memcpy(data.data() + 8, &one, 4);
  const auto path =
      dir.write("x.safetensors",
                safetensors_file(std::string("{\"__metadata__\":{\"format\":\"pt\",\"a\":\"b\"},") +
                                     tensor("b", "F32", "[2,2]", 8, 24) + "," +
                                     tensor("a", "BF16", "[4]", 0, 8) + "," +
                                     tensor("i8", "I8", "[1,1,1,1,2]", 24, 26) + "," +
                                     tensor("none", "F16", "[0,7]", 26, 26) + "," +
                                     tensor("scalar", "I8", "[0]", 8, 8) + "}   ",
                                 data));
  const Safetensors file(path);
  REQUIRE(file.entries().size() == 5);
  CHECK(file.entries()[0].name == "a");
  CHECK(file.num_bytes() == 26);

  const CheckpointTensor* b = file.find("b");
  REQUIRE(b != nullptr);
  CHECK(b->tensor.dtype() == DType::kFloat32);
  CHECK(b->tensor.shape() == Shape{2, 2});
  CHECK(b->num_bytes == 16);
  CHECK(b->file == path);
  float read = 0;
  std::memcpy(&read, b->data, 4);
  CHECK(read == 1.5F);

  const CheckpointTensor* i8 = file.find("i8");
  REQUIRE(i8 != nullptr);
  CHECK(i8->tensor.empty());  // neither its dtype nor its rank is one of the engine's
  CHECK(i8->dtype == "I8");
  CHECK(i8->shape == std::vector<std::int64_t>{1, 1, 1, 1, 2});
  REQUIRE(file.find("none") != nullptr);
  CHECK(file.find("none")->num_bytes == 0);
  CHECK(file.find("c") == nullptr);
}

TEST_CASE("safetensors: a file without tensors, and fields of a later version") {
  const TempDir dir;
  CHECK(Safetensors(dir.write("a", safetensors_file("{}", ""))).entries().empty());
  const Safetensors file(dir.write(
      "b", safetensors_file(R"({"t":{"extra":{"a":[1,{"b":null}]},"dtype":"U8","more":true,)"
                            R"("list":[[],{}],"shape":[2],"data_offsets":[0,2]}})",
                            "xy")));
  REQUIRE(file.find("t") != nullptr);
  CHECK(std::memcmp(file.find("t")->data, "xy", 2) == 0);
}

TEST_CASE("safetensors: missing, empty, truncated and odd files are refused") {
  const TempDir dir;
  CHECK(is_line_with(error_of([&] { Safetensors{dir.path() / "no.safetensors"}; }),
                     {"no.safetensors", "No such file"}));
  CHECK(is_line_with(error_of([&] { Safetensors{dir.path()}; }),
                     {dir.path().string(), "model.safetensors"}));
  CHECK(is_line_with(file_error(""), {"empty"}));
  CHECK(is_line_with(file_error("1234567"), {"7 bytes"}));
  const std::string good = safetensors_file(
      std::string("{") + tensor("t", "F32", "[2]", 0, 8) + "}", std::string(8, 'x'));
  for (std::size_t size = 0; size < good.size(); ++size) file_error(good.substr(0, size));

  REQUIRE(mkfifo((dir.path() / "pipe").c_str(), 0600) == 0);
  CHECK(is_line_with(error_of([&] { Safetensors{dir.path() / "pipe"}; }),
                     {"pipe", "not a regular file"}));
  std::filesystem::create_directory(dir.path() / "model.safetensors");
  CHECK(is_line_with(error_of([&] { Safetensors{dir.path()}; }), {"not a regular file"}));
}

TEST_CASE("safetensors: header lengths that cannot be are refused") {
  std::string file = safetensors_file("{}", "");
  file[0] = 3;
  CHECK(is_line_with(file_error(file), {"header of 3 bytes", "past the end", "10 bytes"}));
  file = safetensors_file("{}", std::string(16, '\0'));
  const std::uint64_t over = 100'000'001;
  std::memcpy(file.data(), &over, 8);
  CHECK(is_line_with(file_error(file), {"100000001", "100000000 allowed"}));
  for (int i = 0; i < 8; ++i) file[static_cast<std::size_t>(i)] = '\xff';
  CHECK(is_line_with(file_error(file), {"18446744073709551615"}));
  CHECK(is_line_with(file_error(std::string(8, '\0')), {"not a JSON object"}));
}

TEST_CASE("safetensors: headers that are not the JSON they should be are refused") {
  for (const std::string& header :
       {std::string("{"), std::string("{]"), std::string("{\"a\":"), std::string("{}{}"),
        std::string("{\"a\xff\":{}}"), std::string("{\"a\" 1}"), std::string("{'a':1}"),
        std::string("{}\0", 3), std::string("{}\0{", 4), std::string("{\"t\":1e400}")}) {
    INFO(header);
    CHECK(is_line_with(header_error(header, 0), {"not JSON"}));
  }
  for (const std::string header : {"[]", "1", " {}", "null", "\"a\""}) {
    INFO(header);
    CHECK(is_line_with(header_error(header, 0), {"not a JSON object"}));
  }
  for (const std::string header :
       {R"({"t":1})",
        R"({"t":[]})",
        R"({"t":null})",
        R"({"t":"x"})",
        R"({"t":{}})",
        R"({"t":{"dtype":"F32","shape":[]}})",
        R"({"t":{"dtype":"F32","data_offsets":[0,4]}})",
        R"({"t":{"shape":[],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":7,"shape":[],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,2,4]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":null}})",
        R"({"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})",
        R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})"}) {
    INFO(header);
    CHECK(is_line_with(header_error(header, 4), {"tensor 't'"}));
  }
  CHECK(is_line_with(header_error(R"({"__metadata__":{"a":1}})", 0), {"__metadata__"}));
  CHECK(is_line_with(header_error(R"({"__metadata__":[]})", 0), {"__metadata__"}));
  CHECK(is_line_with(header_error(R"({"__metadata__":{},"__metadata__":{}})", 0), {"twice"}));
  CHECK(is_line_with(tensors_error(tensor("t", "Q4_0", "[1]", 0, 4), 4), {"'t'", "dtype 'Q4_0'"}));
}

TEST_CASE("safetensors: offsets that do not describe the data are refused") {
  CHECK(is_line_with(tensors_error(tensor("t", "F32", "[1]", 4, 0), 4),
                     {"'t'", "[4, 0]", "reversed"}));
  CHECK(is_line_with(tensors_error(tensor("t", "F32", "[2]", 0, 8), 7),
                     {"'t'", "past the end", "7 bytes"}));
  const std::uint64_t max = std::numeric_limits<std::uint64_t>::max();
  CHECK(is_line_with(tensors_error(tensor("t", "F32", "[2]", max - 8, max), 8),
                     {"'t'", "past the end"}));
  CHECK(is_line_with(tensors_error(tensor("t", "F32", "[3]", 0, 8), 8),
                     {"'t'", "[3]", "F32", "8 bytes"}));
  CHECK(is_line_with(tensors_error(tensor("t", "F4", "[3]", 0, 1), 1), {"'t'", "F4"}));
  CHECK(is_line_with(header_error(std::string("{") + tensor("a", "F32", "[2]", 0, 8) + "," +
                                      tensor("b", "F32", "[2]", 4, 12) + "}",
                                  12),
                     {"'b'", "overlaps", "'a'"}));
  CHECK(is_line_with(header_error(std::string("{") + tensor("a", "F32", "[2]", 0, 8) + "," +
                                      tensor("b", "F32", "[2]", 0, 8) + "}",
                                  8),
                     {"overlaps"}));
  CHECK(is_line_with(header_error(std::string("{") + tensor("a", "F32", "[1]", 0, 4) + "," +
                                      tensor("b", "F32", "[1]", 8, 12) + "}",
                                  12),
                     {"'b'", "hole of 4 bytes"}));
  CHECK(is_line_with(tensors_error(tensor("a", "F32", "[1]", 4, 8), 8), {"hole"}));
  CHECK(is_line_with(tensors_error(tensor("a", "F32", "[1]", 0, 4), 8),
                     {"4 bytes at the end", "'a'"}));
  CHECK(is_line_with(header_error("{}", 1), {"1 bytes at the end"}));
  CHECK(is_line_with(header_error(std::string("{") + tensor("a", "F32", "[1]", 0, 4) + "," +
                                      tensor("a", "F32", "[1]", 4, 8) + "}",
                                  8),
                     {"'a'", "twice"}));
}

TEST_CASE("safetensors: shapes that overflow are refused") {
  for (const std::string shape :
       {"[9223372036854775807]", "[4294967296,4294967296]", "[4294967296,4294967296,0]",
        "[18446744073709551615]", "[18446744073709551616]", "[4611686018427387904,4]"}) {
    INFO(shape);
    CHECK(is_line_with(tensors_error(tensor("t", "F32", shape, 0, 0), 0), {"'t'"}));
  }
  std::string ones = "[1";
  for (int i = 0; i < 100; ++i) ones += ",1";
  CHECK(is_line_with(tensors_error(tensor("t", "I8", ones + "]", 0, 1), 1), {"'t'", "dimensions"}));
}

TEST_CASE("safetensors: hostile names and deep nesting give one short line, quickly") {
  const std::string name(100'000, 'n');
  CHECK(is_line_with(header_error("{\"" + name + "\":1}", 0), {"nnn..."}));
  CHECK(is_line_with(header_error("{\"a\\nb\\u0000\":1}", 0), {"'a?b?'"}));

  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  const auto start = std::chrono::steady_clock::now();
  const std::string deep(20'000'000, '[');
  CHECK(is_line_with(header_error("{\"t\":" + deep, 0), {"'t'"}));
  CHECK(is_line_with(header_error("{\"t\":{\"x\":" + deep, 0), {"not JSON"}));
  CHECK(is_line_with(
      header_error(
          "{\"t\":{\"x\":" + std::string(10'000'000, '[') + std::string(10'000'000, ']') + "}}", 0),
      {"'t'", "no dtype"}));
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
  // KiB; the texts above take 80 MB.
  if (!moba::kSanitized) CHECK(after.ru_maxrss - before.ru_maxrss < 200 * 1024);
}

TEST_CASE("safetensors: shards with an index") {
  const TempDir dir;
  dir.write("one.safetensors",
            safetensors_file(std::string("{") + tensor("a", "F32", "[1]", 0, 4) + "}", "1234"));
  dir.write("two.safetensors",
            safetensors_file(std::string("{") + tensor("b", "F32", "[1]", 0, 4) + "," +
                                 tensor("unlisted", "U8", "[1]", 4, 5) + "}",
                             "5678x"));
  const auto index_error = [&](const std::string& index) {
    dir.write("model.safetensors.index.json", index);
    std::string message = error_of([&] { Safetensors{dir.path()}; });
    INFO(message);
    CHECK(is_line_with(message, {dir.path().string()}));
    return message;
  };

  SECTION("a good one") {
    dir.write("model.safetensors.index.json",
              R"({"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors",)"
              R"("b":"two.safetensors"}})");
    const Safetensors files(dir.path());
    REQUIRE(files.entries().size() == 2);
    CHECK(std::memcmp(files.find("b")->data, "5678", 4) == 0);
    CHECK(files.find("b")->file == dir.path() / "two.safetensors");
    CHECK(files.num_bytes() == 8);
  }
  SECTION("a shard that is not there") {
    CHECK(is_line_with(
        index_error(R"({"weight_map":{"a":"one.safetensors","b":"three.safetensors"}})"),
        {"index.json", "'three.safetensors'", "'b'"}));
  }
  SECTION("a tensor that is not in its shard") {
    CHECK(
        is_line_with(index_error(R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})"),
                     {"one.safetensors", "'c'"}));
    CHECK(
        is_line_with(index_error(R"({"weight_map":{"a":"two.safetensors","b":"two.safetensors"}})"),
                     {"two.safetensors", "'a'"}));
  }
  SECTION("the same shard under two names") {
    std::filesystem::copy(dir.path() / "one.safetensors", dir.path() / "copy.safetensors");
    dir.write("copy.safetensors",
              safetensors_file(std::string("{") + tensor("a", "F32", "[1]", 0, 4) + "," +
                                   tensor("c", "F32", "[1]", 4, 8) + "}",
                               "12345678"));
    CHECK(is_line_with(
        index_error(R"({"weight_map":{"a":"one.safetensors","c":"copy.safetensors"}})"),
        {"copy.safetensors", "'a'", "'one.safetensors'"}));
  }
  SECTION("names that leave the directory") {
    for (const std::string name :
         {"../one.safetensors", "/etc/passwd", "..", ".", "", "sub/one.safetensors",
          "sub/../one.safetensors", "..\\\\one.safetensors", "one.safetensors\\u0000.txt"}) {
      INFO(name);
      CHECK(is_line_with(index_error("{\"weight_map\":{\"a\":\"" + name + "\"}}"),
                         {"index.json", "'a'", "not a plain file name"}));
    }
  }
  SECTION("files that are no index") {
    CHECK(is_line_with(index_error(""), {"empty"}));
    CHECK(is_line_with(index_error("{"), {"not JSON"}));
    CHECK(is_line_with(index_error("[]"), {"not a JSON object"}));
    CHECK(is_line_with(index_error("{}"), {"weight_map"}));
    CHECK(is_line_with(index_error(R"({"weight_map":[]})"), {"weight_map"}));
    CHECK(is_line_with(index_error(R"({"weight_map":{}})"), {"weight_map"}));
    CHECK(is_line_with(index_error(R"({"weight_map":{"a":1}})"), {"'a'"}));
    CHECK(is_line_with(index_error(R"({"weight_map":{"a":"one.safetensors","a":"x"}})"),
                       {"'a'", "twice"}));
    CHECK(is_line_with(index_error("{\"weight_map\":" + std::string(1'000'000, '[')),
                       {"nested deeper"}));
    CHECK(is_line_with(index_error(std::string(33 << 20, ' ')), {"allowed"}));
  }
}
