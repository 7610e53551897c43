// SpectrumTap: turns the transitions that a forward pass reports into spectra per site: on the host as they
// are reported, or, so that a device is not waited for, where they lie and later (deferred_counts.h).
//
// Counts steps 1..length-1 of each row (step 0 acts on a zero state; steps beyond the length are padding),
// each once whatever the chunks of time are, and a constant transition once an analysis; or the windows of
// these steps (models/base/window.h) in their place. Thread rule: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "c10/core/Device.h"
#include "models/analysis/analysis.h"
#include "models/analysis/deferred_counts.h"
#include "models/analysis/eigenvalue_export.h"
#include "models/analysis/host_eigenvalues.h"
#include "models/base/stop_token.h"
#include "models/transition/tap.h"
#include "models/transition/windows.h"

namespace eigsvc {

// By (layer, mixer): the steps of some rows that are counted, from the first to this one, exclusive. When a
// batch runs out of memory part of the way and its halves are run again, perhaps in other chunks of time,
// this keeps steps from being counted twice.
using CountedSteps = std::map<std::pair<int, std::string>, int64_t>;

class SpectrumTap final : public TransitionTap {
 public:
  // `eigenvalues` may be null; else every value is also written there. The references outlive the tap.
  SpectrumTap(const AnalysisOptions& options, c10::Device device, const StopToken& stop,
              EigenvalueExport* eigenvalues);

  // The rows of the coming forward pass; `first_row` counts from the start of the analysis. `batch` is read,
  // and `counted` read and extended, until the next call.
  void BeginRows(int64_t first_row, const Batch* batch, CountedSteps* counted);
  // INTERNAL unless every site that reports steps has reported those of these rows to the last.
  absl::Status EndRows();
  // Waits for what is deferred: sites() is of all that was reported.
  absl::Status Collect();

  bool Wants(int layer, absl::string_view mixer) const override;
  absl::Status OnTransition(int layer, absl::string_view mixer, UnitKind unit_kind,
                            Transition transition) override;

  const std::vector<SiteSpectrum>& sites() const { return sites_; }    // ordered by site
  std::vector<SiteSpectrum> TakeSites() { return std::move(sites_); }  // at the end
  int64_t eigenvalues() const { return eigenvalues_; }                 // stored entries counted
  int64_t redone() const { return redone_; }                           // of Eigenvalues
  // Whether a site reported steps of which nothing was counted. REQUIRES a Collect.
  bool MissesSteps() const;
  // Spent by the host in OnTransition and Collect. What a device spends on deferred counts is not known.
  absl::Duration time() const { return time_; }

 private:
  // The spectra of a (layer, mixer), one a unit, made on first sight. Empty when it had another number of
  // units then.
  absl::Span<SiteSpectrum> SitesOf(int layer, absl::string_view mixer, UnitKind unit_kind, int64_t units);
  // A transition that changes with the step: its windows where there are any, else itself.
  absl::StatusOr<std::optional<Transition>> Windows(const std::pair<int, std::string>& site,
                                                    Transition transition);
  absl::Status CountOnHost(int layer, absl::string_view mixer, UnitKind unit_kind,
                           const Transition& transition, int64_t counted);
  absl::Status Defer(int layer, absl::string_view mixer, UnitKind unit_kind, const Transition& transition,
                     int64_t counted);
  // Sites of a report, checked against those before and described. INTERNAL where they contradict.
  absl::StatusOr<absl::Span<SiteSpectrum>> Describe(int layer, absl::string_view mixer, UnitKind unit_kind,
                                                    const EigenvalueLayout& layout, bool constant);
  // The first step that counts.
  int64_t FirstStep() const { return options_.include_first_step ? 0 : 1; }
  // The number after the last window inside the first `steps` steps, of the report at hand.
  int64_t WindowsIn(int64_t steps) const { return options_.window.End(steps, origin_); }
  // The windows of a row of a report that count, from `begin` to `end` of the report, exclusive.
  int64_t BeginOf(int64_t first_step, int64_t counted) const;
  int64_t EndOf(int64_t row, int64_t first_step, int64_t steps) const;
  // On the device: the batch's lengths, and a noise floor that the host knows.
  at::Tensor Lengths();
  at::Tensor NoiseFloor(double value);
  // How often each of the K eigenvalues of a unit and step counts.
  std::vector<uint64_t> Weights(const EigenvalueLayout& layout) const;
  absl::Status Count(const HostEigenvalues& host, int64_t counted, absl::Span<SiteSpectrum> sites);
  void CountUnresolved(const HostEigenvalues& host, absl::Span<SiteSpectrum> sites) const;

  const AnalysisOptions& options_;
  const c10::Device device_;
  const StopToken& stop_;
  EigenvalueExport* const export_;
  std::optional<DeferredCounts> deferred_;
  std::vector<int64_t> lengths_;  // those of length_tensor_
  at::Tensor length_tensor_;      // of the batch before, or undefined
  std::map<double, at::Tensor> noise_floors_;
  int64_t first_row_ = 0;
  const Batch* batch_ = nullptr;
  CountedSteps* counted_ = nullptr;
  std::map<std::pair<int, std::string>, WindowStream> streams_;  // of these rows
  int64_t origin_ = 0;  // of the report at hand: the first step that counts, where windows begin
  std::set<std::pair<int, std::string>> constants_, changing_;  // sites seen so far
  std::vector<SiteSpectrum> sites_;
  int64_t eigenvalues_ = 0, redone_ = 0;
  absl::Duration time_;
};

}  // namespace eigsvc
