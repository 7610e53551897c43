#include "models/tasks/task.h"

#include "absl/strings/str_cat.h"

namespace eigsvc {

absl::StatusOr<Split> ParseSplit(absl::string_view name) {
  for (Split split : {Split::kTrain, Split::kTest}) {
    if (name == SplitName(split)) return split;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown split \"", name.substr(0, 64), "\"; known: train, test"));
}

absl::string_view SplitName(Split split) { return split == Split::kTrain ? "train" : "test"; }

absl::Status CheckExampleRange(const Task& task, Split split, int64_t first, int64_t count) {
  const int64_t available = task.example_count(split);
  if (first < 0 || count <= 0 || first > available || count > available - first) {
    return absl::OutOfRangeError(absl::StrCat(task.name(), ": ", count, " examples from ", first,
                                              " were asked for; the ", SplitName(split), " split has ",
                                              available));
  }
  if (count > kMaxDraw) {
    return absl::ResourceExhaustedError(
        absl::StrCat(task.name(), ": ", count, " examples at once; draw at most ", kMaxDraw));
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
