#include "tests/model/test_device.h"

moba::Device moba::test::test_device() { return {DeviceType::kCuda, 0}; }
