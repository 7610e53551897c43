// LRU, S4 and S5 in the layouts of arXiv 2510.09379 and minimal-LRU; S4 has other layouts, in s4.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/zoo/families.h"

namespace eigsvc {

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadPaperSsm(const Archive& archive,
                                                                  const Detection& detection,
                                                                  const LoadOptions& options);
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializePaperSsm(const std::string& family,
                                                                        const std::string& layout,
                                                                        const Settings& settings,
                                                                        uint64_t seed,
                                                                        const LoadOptions& options);

}  // namespace eigsvc
