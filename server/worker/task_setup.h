// The task of a job: its parameters settled and its vocabulary held against the model's. Thread-safe: pure
// functions.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "eigsvc/v1/model.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/base/settings.h"
#include "models/tasks/task.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// A fresh model's vocabulary follows from the task where its settings state none: they are given one. Returns
// the task where it had to be made for that, else null. Errors as SetUpTask.
absl::StatusOr<std::shared_ptr<const Task>> SizeFreshModel(const v1::TaskSpec& spec, TaskRequest request,
                                                           worker::v1::ResolvedCheckpoint* checkpoint);

// Each parameter: the request's; else the one recorded in the checkpoint (`task.parameters` beside a
// `task.name` equal to this task); else the task's default. NOT_FOUND listing the tasks; INVALID_ARGUMENT for
// parameters that the task does not take, or missing data; FAILED_PRECONDITION when the task does not fit the
// model. `request` holds what is not the spec's: data path, splits, stop token. `made`: the task where it is
// there already.
absl::StatusOr<std::shared_ptr<const Task>> SetUpTask(const v1::TaskSpec& spec, TaskRequest request,
                                                      const Settings& checkpoint_settings,
                                                      const ModelDescription& model,
                                                      std::shared_ptr<const Task> made = nullptr);

}  // namespace eigsvc
