// A family's two functions, made of the one that reads a decoder from its settings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/archive/archive.h"
#include "models/zoo/decoder.h"
#include "models/zoo/registry.h"

namespace eigsvc {

// Loads and initialises a decoder by a function from its settings, which both use.
using DecoderFromSettings = absl::StatusOr<DecoderSpec> (*)(const Settings& settings, const Settings& typed,
                                                            const Archive* archive, int64_t layers,
                                                            at::ScalarType dtype);
template <DecoderFromSettings kSpec>
absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadBySettings(const Archive& archive,
                                                                    const Detection& detection,
                                                                    const LoadOptions& options) {
  absl::StatusOr<DecoderSpec> spec =
      kSpec(detection.settings, detection.typed, &archive, detection.layers, options.dtype);
  if (!spec.ok()) return spec.status();
  return LoadDecoder(*std::move(spec), archive, options);
}
template <DecoderFromSettings kSpec>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeBySettings(const Settings& settings,
                                                                          uint64_t seed,
                                                                          const LoadOptions& options) {
  absl::StatusOr<DecoderSpec> spec = kSpec(settings, settings, nullptr, 0, options.dtype);
  if (!spec.ok()) return spec.status();
  return InitializeDecoder(*std::move(spec), seed, options);
}

// The same of families that are stored in several layouts; a fresh model has kUsual, where nothing else is
// asked for. `archive`: whose shapes decide what its settings leave open; null for a fresh model. `typed`:
// those of the settings that a user typed.
using DecoderOfLayout = absl::StatusOr<DecoderSpec> (*)(const Settings& settings, const Settings& typed,
                                                        const std::string& layout, const Archive* archive,
                                                        int64_t layers);
template <DecoderOfLayout kSpec>
absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadLayout(const Archive& archive,
                                                                const Detection& detection,
                                                                const LoadOptions& options) {
  absl::StatusOr<DecoderSpec> spec =
      kSpec(detection.settings, detection.typed, detection.layout, &archive, detection.layers);
  if (!spec.ok()) return spec.status();
  return LoadDecoder(*std::move(spec), archive, options);
}
template <DecoderOfLayout kSpec, const absl::string_view& kUsual>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeLayout(const Settings& settings, uint64_t seed,
                                                                      const LoadOptions& options) {
  const absl::StatusOr<std::string> layout = settings.TextOr("layout", kUsual);
  if (!layout.ok()) return layout.status();
  absl::StatusOr<DecoderSpec> spec = kSpec(settings, settings, *layout, nullptr, 0);
  if (!spec.ok()) return spec.status();
  return InitializeDecoder(*std::move(spec), seed, options);
}

}  // namespace eigsvc
