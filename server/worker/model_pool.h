// ModelPool: the models this worker keeps loaded, within a memory budget. Least recently used ones go first;
// a job holds a handle, so a model that is dropped meanwhile lives until the job ends. Thread-safe; one load
// at a time.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "c10/core/Device.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/archive/contents.h"
#include "models/base/settings.h"
#include "models/base/stop_token.h"
#include "models/zoo/registry.h"

namespace eigsvc {

struct PooledModel {
  std::string id;  // a pure function of device, digest (or initializer), settings, dtype and seed
  std::shared_ptr<const SequenceModel> model;
  Settings settings;  // what came with the checkpoint, the request's on top; holds recorded task parameters
  v1::Model description;
  int64_t size_bytes = 0;  // that its weights take at a time, on each device
  // On the pool's other devices; none where layers are streamed.
  std::vector<ModelWeights> replicas;
};

v1::LoadedModel LoadedModelProto(const PooledModel& model, absl::Time last_use);

class ModelPool {
 public:
  using Handle = std::shared_ptr<const PooledModel>;

  // `device_name` as results name it: "cpu", "cuda:0", "cuda:0+cuda:1". Models lie on the first device, with
  // copies of their weights on the others. `budget_bytes` is of each. `reader`: as in ArchiveOptions.
  // REQUIRES a device.
  ModelPool(std::vector<c10::Device> devices, std::string device_name, int64_t budget_bytes,
            const ContentsReader* reader = nullptr);
  const ContentsReader* reader() const { return reader_; }

  // The model that `checkpoint` names, loaded or initialised if it is not here yet. `dtype` and `residency`
  // as in AnalysisSpec. `whole`: with all its layers; else those of a checkpoint may come to a CUDA device as
  // they are first run (LoadOptions::as_it_runs). Errors as Archive::Open, LoadModel, FindFamily and
  // ParseDtype; INVALID_ARGUMENT for settings that are no JSON object or a checkpoint without a source;
  // RESOURCE_EXHAUSTED when it does not fit the budget; CANCELLED and DEADLINE_EXCEEDED while it waits for
  // another load or loads.
  absl::StatusOr<Handle> Acquire(const worker::v1::ResolvedCheckpoint& checkpoint, const std::string& dtype,
                                 const StopToken& stop, absl::string_view residency = "auto",
                                 bool whole = true);

  // NOT_FOUND: no such model.
  absl::Status Unload(const std::string& id);

  // Most recently used first.
  std::vector<v1::LoadedModel> List() const;

 private:
  struct Entry {
    Handle model;
    absl::Time last_use;
  };

  // The next three run with loading_ set and mutex_ free: they read files and fill memory.
  // `residency`: nothing for auto.
  absl::StatusOr<Handle> AcquireTrained(const worker::v1::ResolvedCheckpoint& checkpoint,
                                        const Settings& overrides, std::optional<Residency> residency,
                                        LoadOptions options);
  absl::StatusOr<Handle> AcquireInitialized(const v1::Initializer& initializer, const Settings& settings,
                                            const LoadOptions& options);
  absl::StatusOr<Handle> MakeTwin(Handle base, uint64_t seed, const LoadOptions& options);

  std::string CheckpointId(const std::string& digest, const Settings& overrides,
                           const LoadOptions& options) const;
  std::string KnownDigest(const std::string& fingerprint) const;
  Handle Find(const std::string& id);
  absl::StatusOr<Handle> Keep(PooledModel model);
  // Drops idle models until `bytes` more fit. RESOURCE_EXHAUSTED, with nothing dropped, when that cannot be.
  absl::Status MakeRoom(int64_t bytes);

  const std::vector<c10::Device> devices_;
  const std::string device_name_;
  const int64_t budget_bytes_;
  const ContentsReader* const reader_;

  mutable absl::Mutex mutex_;
  bool loading_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // most recently used first
  // Unloaded while a job held them: their memory is still taken.
  std::vector<std::weak_ptr<const PooledModel>> leaving_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> digests_ ABSL_GUARDED_BY(mutex_);  // by fingerprint
};

}  // namespace eigsvc
