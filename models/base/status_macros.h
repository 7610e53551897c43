// Passing an absl::Status up; the Abseil of Debian 12 ships no such macros.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define EIGSVC_RETURN_IF_ERROR(expression)                                                    \
  do {                                                                                        \
    if (absl::Status eigsvc_status = (expression); !eigsvc_status.ok()) return eigsvc_status; \
  } while (false)

#define EIGSVC_CONCAT_INNER(a, b) a##b
#define EIGSVC_CONCAT(a, b) EIGSVC_CONCAT_INNER(a, b)

// EIGSVC_ASSIGN_OR_RETURN(auto value, Compute());
#define EIGSVC_ASSIGN_OR_RETURN(target, expression) \
  EIGSVC_ASSIGN_OR_RETURN_INNER(EIGSVC_CONCAT(eigsvc_result_, __LINE__), target, expression)
#define EIGSVC_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                     \
  if (!result.ok()) return std::move(result).status();            \
  target = *std::move(result)
