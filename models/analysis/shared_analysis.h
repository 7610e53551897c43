// One analysis over several devices: each holds the weights and takes a share of the examples.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/analysis/analysis.h"

namespace eigsvc {

// RunAnalysis with `replicas` of the model's weights, each on a device of its own, or on the CPU as well.
// Every one takes consecutive examples, cut between batches where options.batch_size says how long those are,
// in a thread of its own; the spectra and the score are of all. What is counted has the same bits as with one
// device: counts and moments are integers, and merged exactly. `progress` is called by one thread at a time.
// Errors as RunAnalysis: the first share's that fails, which stops the others. INVALID_ARGUMENT for an
// export and for windows, which one device takes. REQUIRES at least one replica, none streamed.
absl::StatusOr<AnalysisResult> RunSharedAnalysis(const SequenceModel& model,
                                                 absl::Span<const ModelWeights* const> replicas,
                                                 const Task& task, const AnalysisOptions& options,
                                                 const std::function<void(const AnalysisProgress&)>& progress,
                                                 const StopToken& stop);

}  // namespace eigsvc
