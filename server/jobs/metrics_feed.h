// MetricsFeed: what one run of a job on a worker tells the metrics: how long its phases took, the spectrum
// and score of an analysis when it ends, and where a training is for as long as it runs. One thread.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/training.pb.h"
#include "server/metrics/metrics.h"

namespace eigsvc {

// What metrics call a model: the operator's name for a checkpoint under the root. What has no such name goes
// by its family, so that clients make no series of their own: "upload:mamba2", "untrained:mamba2",
// "twin:llama". A fresh model in training is called by its family alone.
std::string ModelAlias(const v1::CheckpointRef& ref, absl::string_view family, bool in_training);

// All sites together.
SpectrumSnapshot MergedSpectrum(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites);

class MetricsFeed {
 public:
  // `metrics` outlives it.
  MetricsFeed(Metrics& metrics, std::string run, std::string device, v1::CheckpointRef ref, std::string task);
  ~MetricsFeed();  // the training ends with it, however it ended, and so do its series
  MetricsFeed(const MetricsFeed&) = delete;
  MetricsFeed& operator=(const MetricsFeed&) = delete;

  void See(const v1::AnalysisEvent& event);
  void See(const v1::TrainingEvent& event);

 private:
  void Loaded(absl::string_view kind, const v1::Model& model);

  Metrics& metrics_;
  const std::string run_, task_;
  const v1::CheckpointRef ref_;
  LoadedModelKey key_;
  std::string family_;
  absl::Time phase_start_;
  bool in_training_ = false;  // the model is loaded, steps are done
  TrainingSnapshot training_;
  int64_t evaluated_step_ = -1;
};

}  // namespace eigsvc
