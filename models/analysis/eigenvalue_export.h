// EigenvalueExport: every eigenvalue of an analysis as safetensors, written as it comes (DESIGN section 4,
// Export).
//
// `layers.N.MIXER.log_magnitude` [rows, steps, units, K], natural logarithm, -inf for λ = 0 and NaN beyond a
// row's length; constant transitions [units, K]; `.phase` likewise where λ may be other than positive real;
// `.condition` and `.log_magnitude_error` [units, K] where condition numbers come with them (S4);
// `.noise_floor` [rows], of constant ones a scalar, the absolute error of log|λ|; `lengths` [rows]. Metadata
// says from which step on each site's second axis counts, and each site's multiplicities and unit kind. Where
// windows are asked for, the second axis holds them in place of steps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "models/analysis/host_eigenvalues.h"
#include "models/archive/safetensors.h"
#include "models/base/site.h"
#include "models/base/stop_token.h"
#include "models/tasks/task.h"
#include "models/transition/tap.h"

namespace eigsvc {

// Learns from one forward pass what will be exported: safetensors declares every shape before the first byte.
class ExportProbe final : public TransitionTap {
 public:
  explicit ExportProbe(Window window) : window_(window) {}

  struct Entry {
    UnitKind unit_kind = UnitKind::kHead;
    EigenvalueLayout layout;  // of the first chunk
    bool constant = false;
    int64_t first_step = 0;  // where windows are counted, of the first of them

    int64_t units() const { return layout.units; }
    int64_t per_unit() const { return static_cast<int64_t>(layout.multiplicities.size()); }
    at::ScalarType type() const { return layout.type == at::kDouble ? at::kDouble : at::kFloat; }
  };
  using Entries = absl::btree_map<std::pair<int, std::string>, Entry>;

  bool Wants(int, absl::string_view) const override { return true; }
  absl::Status OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                            Transition transition) override;
  const Entries& entries() const { return entries_; }

 private:
  const Window window_;
  Entries entries_;
};

// Thread rule: one thread.
class EigenvalueExport {
 public:
  struct Plan {
    std::string path;
    int64_t max_bytes = 0;
    int64_t rows = 0, steps = 0;  // of the whole analysis
    bool include_first_step = false;
    Window window;
    ExportProbe::Entries entries;
    absl::btree_map<std::string, std::string> metadata;
  };
  // RESOURCE_EXHAUSTED when the values need more than max_bytes; both numbers and the remedy are in the
  // message.
  static absl::StatusOr<std::unique_ptr<EigenvalueExport>> Create(Plan plan);

  // A chunk of time of the rows of `batch`, the first of which is `first_row` of the whole; EndRows after
  // their last chunk.
  absl::Status Write(int layer, absl::string_view mixer, int64_t first_row, const Batch& batch,
                     const HostEigenvalues& host);
  absl::Status EndRows(int64_t first_row, const Batch& batch);
  absl::Status Finish() { return writer_.Finish(); }
  int64_t bytes() const { return bytes_; }  // of the values, without the header

 private:
  EigenvalueExport(Plan plan, SafetensorsWriter writer, int64_t bytes)
      : plan_(std::move(plan)), writer_(std::move(writer)), bytes_(bytes) {}
  // The number after the last window inside the first `steps` steps of a sequence; see Window.
  int64_t WindowsIn(int64_t steps, const ExportProbe::Entry& entry) const;
  // block [rows, steps, units, K] of a tensor that changes with the step, from step `first_step` on.
  absl::Status WriteBlock(const std::string& name, const ExportProbe::Entry& entry, int64_t first_row,
                          int64_t first_step, const at::Tensor& block);

  const Plan plan_;
  SafetensorsWriter writer_;
  const int64_t bytes_;
  // By row, as far as the layers have come: batches may go through each layer together.
  absl::btree_map<std::pair<int, std::string>, std::vector<double>> noise_floors_;
};

}  // namespace eigsvc
