// Where checkpoints of state-spaces/s4 have a layer's kernel, and what the repository's versions call its
// parameters.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/archive/archive.h"
#include "models/mixers/state_space_storage.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {

struct S4Names {
  absl::string_view backbone;    // "model": the training framework's; "example": example.py's
  absl::string_view version;     // "2", "3", "4", or "minimal" of the standalone s4d.py
  absl::string_view layer;       // of layer '#'
  absl::string_view inner;       // of D, behind it
  absl::string_view kernel;      // behind that
  std::string decay, frequency;  // of -Re A and Im A there

  // Of the first layer: a kernel's parameter, or one beside the kernel.
  std::string Key(absl::string_view name, bool in_kernel = true) const;
};

// FAILED_PRECONDITION when the archive has no such kernel.
absl::StatusOr<S4Names> FindS4Names(const Archive& archive, bool minimal);
// Of a fresh model, by its settings backbone and version; `diagonal`: of S4D, whose names differ before 4.
absl::StatusOr<S4Names> ChooseS4Names(SettingsReader& reader, bool minimal, bool diagonal);

// FAILED_PRECONDITION naming the setting and the transforms there are.
absl::StatusOr<PositiveTransform> ReadTransform(SettingsReader& reader, SettingsReader::Names names,
                                                std::optional<std::string> fallback);

}  // namespace eigsvc
