// Random numbers on a device, for what is drawn there: dropout's masks. Everything else draws from
// models/base/random.h, which is the same on every device.
#pragma once

#include <cstdint>

#include "ATen/core/Generator.h"
#include "c10/core/Device.h"

namespace eigsvc {

// Its own stream, a function of the seed on one device and version of LibTorch. Throws like LibTorch.
at::Generator SeededGenerator(c10::Device device, uint64_t seed);

}  // namespace eigsvc
