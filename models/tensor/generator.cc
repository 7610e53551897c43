#include "models/tensor/generator.h"

#include "ATen/Context.h"

namespace eigsvc {

at::Generator SeededGenerator(c10::Device device, uint64_t seed) {
  at::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(seed);
  return generator;
}

}  // namespace eigsvc
