// Small helpers over absl::Status. Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// The same code and payloads with another message; OK stays OK.
absl::Status WithMessage(const absl::Status& status, absl::string_view message);

// The same code with "context: " before the message; OK stays OK. Payloads are kept.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

// NOT_FOUND `unknown KIND "NAME"; known: a, b, c` and, where one is close, `did you mean "b"?`.
absl::Status UnknownName(absl::string_view kind, absl::string_view name,
                         const std::vector<std::string>& known);

}  // namespace eigsvc
