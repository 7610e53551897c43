// Small freshly initialised models of every trainable family and layout, through the registry.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/zoo/registry.h"

namespace eigsvc::testing {

struct TinyModel {
  std::string family, layout;
  std::string variant;  // what is unusual about it; empty for the plain one
  Settings settings;
};
// For gtest's names of parameterised cases.
void PrintTo(const TinyModel& model, std::ostream* out);
std::string TinyModelName(const TinyModel& model);  // letters, digits and '_' only

inline constexpr int64_t kTinyVocabulary = 48;

// Every trainable family in each of its layouts, some of them in several variants.
std::vector<TinyModel> TinyModels();
// Those of them that take tokens and name a token at every step.
std::vector<TinyModel> TinyTokenModels();
absl::StatusOr<std::shared_ptr<const SequenceModel>> MakeTiny(const TinyModel& model, uint64_t seed = 1,
                                                              c10::ScalarType dtype = c10::kFloat);

}  // namespace eigsvc::testing
