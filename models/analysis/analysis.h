// Analysis: one model × task × settings, and its result. Runs a task through a model with a tap and turns
// transitions into spectra per site. This room owns the loop over layers and chunks, cancellation, batching
// and the score.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/base/convention.h"
#include "models/base/site.h"
#include "models/base/solver_precision.h"
#include "models/base/stop_token.h"
#include "models/base/window.h"
#include "models/spectrum/spectrum.h"
#include "models/tasks/task.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

struct AnalysisOptions {
  Split split = Split::kTest;
  int64_t examples = 0;  // 0: the split's own count, at most 4096
  // The first of them in the split. Constant transitions are counted by the analysis that begins with the
  // split, so that the spectra of shares add up to those of the whole. Nothing is exported from elsewhere.
  int64_t first_example = 0;
  int64_t batch_size = 0;  // 0: chosen so that a layer takes well under 100 ms
  int64_t max_steps = 0;   // truncate sequences; 0: no truncation
  // Hidden states that may be held between layers, where layers are streamed; one batch is always held.
  int64_t held_bytes = int64_t{1} << 30;
  bool weight_by_multiplicity = false;
  bool include_first_step = false;  // λ_0 acts on h_{-1} = 0; excluded by default
  Window window;                    // of steps whose product's eigenvalues are taken
  Convention convention;            // as asked; resolved against what the model supports
  SolverPrecision precision = SolverPrecision::kDouble;
  // Count eigenvalues where they lie, many layers in one pass, as is always done on a CUDA device where
  // nothing is exported. The counts are the same.
  bool defer_counts = false;
  // Where to write every eigenvalue (DESIGN section 4, Export); empty: nowhere.
  std::string export_path;
  int64_t max_export_bytes = int64_t{4} << 30;
  absl::btree_map<std::string, std::string> export_metadata;  // provenance put beside the conventions
  absl::Duration progress_interval = absl::Milliseconds(250);
};

// How well the stored parameters determine eigenvalues that a general solver found (S4).
struct Conditioning {
  double max_condition = 0;  // the largest 1/|yᴴx| of unit left and right eigenvectors
  // Eigenvalues whose |λ| may lie on the other side of an edge that is counted at: the first-order error
  // bound reaches it. Weighted as the spectrum's counts.
  uint64_t unresolved = 0;
  int bits = 0;  // of the solver's precision
};

struct SiteSpectrum {
  Site site;
  // State dimensions that share each stored eigenvalue: one number where all have the same, else one each; 0:
  // infinitely many.
  std::vector<int64_t> multiplicities;
  bool constant = false;
  Spectrum spectrum;
  std::optional<Conditioning> conditioning;
  bool conjugate_pairs = false;  // each stored eigenvalue counts for its conjugate, too, with its own phase
};

struct AnalysisProgress {
  int64_t examples_done = 0, examples_total = 0;
  int64_t eigenvalues = 0;
  Convention convention;                                 // as resolved
  Score score;                                           // of the examples so far
  const std::vector<SiteSpectrum>* sites = nullptr;      // cumulative; valid during the call
  const std::vector<Prediction>* predictions = nullptr;  // that the score is of; valid during the call
};

struct AnalysisResult {
  Score score;
  Convention convention;                // as resolved
  Window window;                        // as asked
  std::vector<SiteSpectrum> sites;      // ordered by (layer, mixer, unit)
  std::vector<Prediction> predictions;  // that the score is of, by example
  int64_t examples = 0, batches = 0, tokens = 0, eigenvalues = 0;
  int64_t redone = 0;      // of Eigenvalues
  int64_t batch_size = 0;  // the largest
  // How often one did not fit in memory and was halved, and the fewest examples that this came to; 0: never.
  int64_t halvings = 0, halved_to = 0;
  absl::Duration forward_time, analysis_time, total_time;
  int64_t exported_bytes = 0;
};

// How many examples an analysis takes. INVALID_ARGUMENT for options out of range, FAILED_PRECONDITION where
// the split is empty.
absl::StatusOr<int64_t> ExamplesOf(const Task& task, const AnalysisOptions& options);

// INVALID_ARGUMENT: a token id >= V (names task, example, position and both numbers), options out of range, a
// convention that the model does not know, a window that no sequence is long enough for or that a model's
// transitions have no exact route for.
// CANCELLED, DEADLINE_EXCEEDED from `stop`. RESOURCE_EXHAUSTED when a batch of one does not fit (larger ones
// are halved).
absl::StatusOr<AnalysisResult> RunAnalysis(const SequenceModel& model, const Task& task,
                                           const AnalysisOptions& options,
                                           const std::function<void(const AnalysisProgress&)>& progress,
                                           const StopToken& stop);

// The same with other weights of the same model: what training evaluates.
absl::StatusOr<AnalysisResult> RunAnalysis(const SequenceModel& model, const ModelWeights& weights,
                                           const Task& task, const AnalysisOptions& options,
                                           const std::function<void(const AnalysisProgress&)>& progress,
                                           const StopToken& stop);

}  // namespace eigsvc
