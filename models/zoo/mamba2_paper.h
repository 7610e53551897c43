// The Mamba-2 of arXiv 2510.09379 (layout "paper"), as its authors' repository defines and stores it, with
// its pseudo-LTI variant.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "models/zoo/registry.h"

namespace eigsvc {

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadPaperMamba2(const Archive& archive,
                                                                     const Detection& detection,
                                                                     const LoadOptions& options);
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializePaperMamba2(const Settings& settings,
                                                                           uint64_t seed,
                                                                           const LoadOptions& options);

}  // namespace eigsvc
