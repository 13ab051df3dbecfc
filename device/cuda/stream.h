// Owners of CUDA streams and events. Of the device that was current when they were made.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "device/cuda/cuda_check.h"

namespace moba::cuda {

// Does not wait for the legacy default stream.
class Stream {
 public:
  // `urgent`: its work goes before that of other streams, where there is room for one.
  explicit Stream(bool urgent = false) {
    int least = 0;
    int greatest = 0;
    if (urgent) MOBA_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    MOBA_CUDA_CHECK(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  }
  ~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// A point in a stream's work; with timing, a time stamp too.
class Event {
 public:
  explicit Event(bool timing = false) {
    MOBA_CUDA_CHECK(
        cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming));
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() {
    if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
  }

  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) { MOBA_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  // The host waits.
  void synchronize() const { MOBA_CUDA_CHECK(cudaEventSynchronize(event_)); }
  // Milliseconds between two events with timing that have both happened.
  float since(const Event& start) const {
    float milliseconds = 0;
    MOBA_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace moba::cuda
