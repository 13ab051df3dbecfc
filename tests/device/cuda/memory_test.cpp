// Devices, memory, copies and markers of the CUDA backend.
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "device/context.h"
#include "device/copy.h"
#include "device/device_info.h"
#include "device/marker.h"
#include "device/uploader.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

template <typename F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool one_line_with(const std::string& text, const std::vector<std::string>& words) {
  if (text.find('\n') != std::string::npos) return false;
  for (const std::string& word : words) {
    if (text.find(word) == std::string::npos) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a CUDA device says what it is") {
  REQUIRE(num_cuda_devices() > 0);
  const DeviceInfo info = device_info(first_gpu());
  CHECK(!info.name.empty());
  CHECK(info.compute_major >= 8);
  CHECK(info.num_multiprocessors > 0);
  CHECK(info.l2_bytes > 0);
  const DeviceMemory memory = device_memory(first_gpu());
  CHECK(memory.free_bytes > 0);
  CHECK(memory.free_bytes <= memory.total_bytes);
}

TEST_CASE("a CUDA device that does not exist is refused in one line") {
  for (const int index : {num_cuda_devices(), 4711, -1}) {
    const std::string error = error_of([&] {
      DeviceContext context({DeviceType::kCuda, index}, 1);
    });
    INFO(error);
    CHECK(one_line_with(error, {"cuda:" + std::to_string(index), "no such device"}));
  }
}

TEST_CASE("memory that a CUDA device does not have is refused in one line, and later calls work") {
  const std::size_t size = std::size_t{1} << 46;
  const std::string error = error_of([&] { Buffer buffer(first_gpu(), size, "big thing"); });
  INFO(error);
  CHECK(one_line_with(error, {"big thing", std::to_string(size), "free"}));
  const Buffer buffer(first_gpu(), 1 << 20, "small thing");
  CHECK(buffer.data() != nullptr);
}

TEST_CASE("what goes to a CUDA device comes back") {
  DeviceContext context(first_gpu(), 1);
  std::mt19937 random(std::random_device{}());
  for (const std::int64_t n : {0, 1, 77, 1 << 20}) {
    const Tensor host = random_tensor(DType::kFloat32, {n}, random);
    const Tensor back = on_host(context, on_device(context, host));
    CHECK(bitwise_equal(host, back));
  }
  const Tensor filled = on_device(context, random_tensor(DType::kFloat32, {64}, random));
  fill_bytes(context, filled, 0xff);
  const Tensor back = on_host(context, filled);
  CHECK(back.view().data<float>()[63] != back.view().data<float>()[63]);
  CHECK_THROWS_AS(copy_to_device(context, filled, filled), Error);
  CHECK_THROWS_AS(copy_to_host(context, filled, random_tensor(DType::kFloat32, {63}, random)),
                  Error);
}

TEST_CASE("pinned memory is host memory") {
  DeviceContext context(first_gpu(), 1);
  const Buffer pinned = Buffer::host_for(first_gpu(), 1000 * sizeof(std::int32_t), "pinned");
  CHECK(pinned.device() == Device{});
  auto* values = static_cast<std::int32_t*>(pinned.data());
  std::iota(values, values + 1000, 5);
  const TensorView host(values, DType::kInt32, {1000});
  const Tensor device(DType::kInt32, {1000}, first_gpu(), "copy");
  copy_to_device(context, host, device);
  Marker marker(context);
  marker.wait();  // nothing recorded
  marker.record();
  marker.wait();
  std::fill(values, values + 1000, 0);
  copy_to_host(context, device, host);
  context.synchronize();
  CHECK(values[0] == 5);
  CHECK(values[999] == 1004);
}

TEST_CASE("an uploader brings pieces in order") {
  DeviceContext context(first_gpu(), 2);
  constexpr std::int64_t kPieces = 7;
  constexpr std::int64_t kWords = 1000;
  const Tensor device(DType::kInt32, {kPieces * kWords}, first_gpu(), "uploaded");
  {
    Uploader uploader(context, kWords * sizeof(std::int32_t));
    for (std::int64_t p = 0; p < kPieces; ++p) {
      auto* words = reinterpret_cast<std::int32_t*>(uploader.next());
      std::iota(words, words + kWords, static_cast<std::int32_t>(p * kWords));
      uploader.send(kWords * sizeof(std::int32_t),
                    device.view().rows(p * kWords, p * kWords).raw());
    }
  }
  const Tensor host = on_host(context, device);
  bool equal = true;
  for (std::int64_t i = 0; i < kPieces * kWords; ++i) {
    equal = equal && host.view().data<std::int32_t>()[i] == static_cast<std::int32_t>(i);
  }
  CHECK(equal);
}

}  // namespace moba::test
