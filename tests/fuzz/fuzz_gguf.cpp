// libFuzzer: any bytes as a GGUF header. An Error with one line or a header within the bytes; all
// else is a bug.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "device/check.h"
#include "model/gguf_header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const moba::GgufHeader header =
        moba::read_gguf_header({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    for (const moba::GgufTensor& tensor : header.tensors) {
      if (tensor.begin > tensor.end || tensor.end > size) std::abort();
    }
    for (const moba::GgufValue& value : header.metadata.values()) {
      try {
        header.metadata.strings(value.key);
      } catch (const moba::Error&) {
      }
      try {
        header.metadata.integers(value.key, 0, 1000);
      } catch (const moba::Error&) {
      }
      try {
        header.metadata.floats(value.key);
      } catch (const moba::Error&) {
      }
      try {
        header.metadata.number(value.key);
      } catch (const moba::Error&) {
      }
    }
  } catch (const moba::Error& error) {
    if (std::string(error.what()).find('\n') != std::string::npos) std::abort();
  }
  return 0;
}
