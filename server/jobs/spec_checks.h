// What a request must satisfy before it is queued, and how its sources become paths. The ranges are those the
// protos state; what only the model or the task can tell, the worker checks.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/checkpoint.pb.h"
#include "eigsvc/v1/model.pb.h"
#include "eigsvc/v1/training.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "server/store/store.h"

namespace eigsvc {

// What the server can run. Without a catalog (no worker has started yet) names are left to the worker.
struct Known {
  std::vector<std::string> devices;
  const worker::v1::GetCatalogResponse* catalog = nullptr;
};

// INVALID_ARGUMENT naming the field, its value and what is allowed; NOT_FOUND listing the known names.
absl::Status CheckSpec(const v1::AnalysisSpec& spec, const Known& known);
absl::Status CheckSpec(const v1::TrainingSpec& spec, const Known& known);
absl::Status CheckCheckpoint(const v1::CheckpointRef& ref, const Known& known);
absl::Status CheckDtype(absl::string_view dtype);
absl::Status CheckDevice(const std::string& device, const Known& known);  // empty: any
// 64 lower-case hexadecimal digits.
absl::Status CheckSha256(absl::string_view field, absl::string_view sha256);

// Sources to paths; the ref must have passed CheckCheckpoint. Blocking. Errors of Store::Resolve*.
absl::StatusOr<worker::v1::ResolvedCheckpoint> ResolveCheckpoint(const v1::CheckpointRef& ref, Store& store);
absl::StatusOr<std::string> ResolveData(const v1::DataRef& data, Store& store);  // empty when unset

// The first of the task's own names for its data that the data root holds; empty: none. Blocking.
std::string FindData(const v1::TaskInfo& task, Store& store);
// Names that data in a spec that names none, where the task runs only on data. Blocking.
void ChooseData(v1::TaskSpec& task, const Known& known, Store& store);

}  // namespace eigsvc
