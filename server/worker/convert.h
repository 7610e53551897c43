// Models' structs in the words of the contract. One direction only: nothing here is read back. Thread-safe:
// pure functions.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/model.pb.h"
#include "eigsvc/v1/spectrum.pb.h"
#include "eigsvc/v1/training.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/analysis/analysis.h"
#include "models/base/convention.h"
#include "models/spectrum/spectrum.h"
#include "models/tasks/task.h"
#include "models/training/training.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

v1::UnitKind UnitKindProto(UnitKind kind);
v1::SpectrumBins BinsProto(const Spectrum& spectrum);
v1::SiteSpectrum SiteProto(const SiteSpectrum& site, const Departures& departures = {});
v1::Score ScoreProto(const Score& score);

// Without digest, seed, dtype and device: those belong to the weights, not the architecture.
v1::Model ModelProto(const ModelDescription& description);

// Phase "run".
v1::AnalysisProgress ProgressProto(const AnalysisProgress& progress);
// Without task and versions, which the job knows.
v1::AnalysisResult ResultProto(const AnalysisResult& result);

// Score and sites only when this progress evaluated; the job fills in the newest ones otherwise.
v1::TrainingProgress ProgressProto(const TrainingProgress& progress);
// Without digests and versions.
v1::TrainingResult ResultProto(const TrainingResult& result);

// Every family and task this program was built with, by name.
worker::v1::GetCatalogResponse CatalogProto();

google::protobuf::Duration DurationProto(absl::Duration duration);
google::protobuf::Timestamp TimestampProto(absl::Time time);

}  // namespace eigsvc
