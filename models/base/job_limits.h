// What a job may ask for at most: the client's flags and the daemon's checks hold to the same numbers, within
// those that the library itself takes.
#pragma once

#include <cstdint>

namespace eigsvc {

inline constexpr int64_t kMaxJobExamples = 10'000'000;
inline constexpr int64_t kMaxBatchSize = 65'536;
inline constexpr int64_t kMaxSequenceSteps = (int64_t{1} << 31) - 1;  // that sequences are cut to
inline constexpr int64_t kMaxTrainingSteps = 1'000'000'000;
inline constexpr double kMinLearningRate = 1e-12, kMaxLearningRate = 10;
inline constexpr double kMaxBeta2 = 1 - 1e-12;  // AdamW divides by 1 - beta2
inline constexpr double kMaxWeightDecay = 100;
inline constexpr double kMaxGradientClip = 1e9;
// What a training takes where none is given, and what its warm-up and its last rate are then held to.
inline constexpr int64_t kDefaultTrainingSteps = 1000;
inline constexpr double kDefaultLearningRate = 1e-3;

}  // namespace eigsvc
