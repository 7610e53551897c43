// ParameterReader: a task's parameters, typed, defaulted and held to their ranges. The first mistake is kept
// and ends the reading; what was read is what the task records.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/base/settings.h"

namespace eigsvc {

// What every task holds its sizes to, for a request of an absurd one.
inline constexpr int64_t kMaxTaskSteps = int64_t{1} << 20, kMaxTaskVocabulary = int64_t{1} << 31,
                         kMaxTaskExamples = int64_t{1} << 40;

class ParameterReader {
 public:
  // Both must outlive the reader. `task` stands in the messages.
  ParameterReader(absl::string_view task, const Settings& given) : task_(task), given_(given) {}

  // Ranges are inclusive. After a mistake the fallback is returned, which is in range.
  int64_t Int(absl::string_view name, int64_t fallback, int64_t low, int64_t high);
  double Real(absl::string_view name, double fallback, double low, double high);
  bool Bool(absl::string_view name, bool fallback);
  std::string Text(absl::string_view name, absl::string_view fallback);
  // The first choice is the fallback.
  std::string Choice(absl::string_view name, std::initializer_list<absl::string_view> choices);

  // For what only the task can tell; earlier mistakes win.
  void Fail(absl::string_view what);
  // INVALID_ARGUMENT naming task, parameter, value and what is allowed.
  const absl::Status& status() const { return status_; }
  Settings& resolved() { return resolved_; }

 private:
  template <typename T>
  T Keep(absl::string_view name, absl::StatusOr<T> value, T fallback);

  const absl::string_view task_;
  const Settings& given_;
  Settings resolved_;
  absl::Status status_;
};

}  // namespace eigsvc
