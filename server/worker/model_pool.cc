#include "server/worker/model_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "models/archive/archive.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "models/tensor/device.h"
#include "models/tensor/torch_call.h"
#include "server/worker/convert.h"
#include "server/worker/fingerprint.h"

namespace eigsvc {
namespace {

// Fingerprints of files that changed are of no more use; forgetting all of them now and then costs one
// hashing each.
constexpr size_t kMaxDigests = 1024;

std::string HashId(std::initializer_list<absl::string_view> parts) {
  const std::string key = absl::StrJoin(parts, "\n");
  return Sha256::Of({reinterpret_cast<const std::byte*>(key.data()), key.size()}).substr(0, 16);
}

std::string TwinId(const std::string& base_id, uint64_t seed) {
  return HashId({base_id, "twin", absl::StrCat(seed)});
}

// Nothing for auto.
absl::StatusOr<std::optional<Residency>> ParseResidency(absl::string_view name) {
  if (name.empty() || name == "auto") return std::optional<Residency>();
  if (name == "all") return Residency::kAll;
  if (name == "layer") return Residency::kLayer;
  return absl::InvalidArgumentError(absl::StrCat("residency \"", name, "\" is none of auto, all, layer"));
}

// What the weights take at a time: streamed, the running layer and the one that is being read.
int64_t WeightBytes(const WeightPlan& plan, const LoadOptions& options) {
  const PlannedBytes bytes = BytesOf(plan, options.dtype);
  return options.residency == Residency::kLayer ? bytes.Streamed() : bytes.All();
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

v1::LoadedModel LoadedModelProto(const PooledModel& model, absl::Time last_use) {
  v1::LoadedModel out;
  out.set_model_id(model.id);
  *out.mutable_model() = model.description;
  out.set_size_bytes(model.size_bytes);
  *out.mutable_last_use_time() = TimestampProto(last_use);
  return out;
}

ModelPool::ModelPool(std::vector<c10::Device> devices, std::string device_name, int64_t budget_bytes,
                     const ContentsReader* reader)
    : devices_(std::move(devices)),
      device_name_(std::move(device_name)),
      budget_bytes_(budget_bytes),
      reader_(reader) {}

absl::StatusOr<ModelPool::Handle> ModelPool::Acquire(const worker::v1::ResolvedCheckpoint& checkpoint,
                                                     const std::string& dtype, const StopToken& stop,
                                                     absl::string_view residency_name, bool whole) {
  const v1::CheckpointRef& ref = checkpoint.ref();
  LoadOptions options;
  options.device = devices_.front();
  options.max_weight_bytes = budget_bytes_;
  options.stop = &stop;
  options.as_it_runs = !whole && devices_.size() == 1 && options.device.is_cuda();
  EIGSVC_ASSIGN_OR_RETURN(options.dtype, ParseDtype(dtype.empty() ? "float32" : dtype));
  EIGSVC_ASSIGN_OR_RETURN(const std::optional<Residency> residency, ParseResidency(residency_name));
  Settings overrides;
  if (!ref.settings_json().empty()) {
    EIGSVC_ASSIGN_OR_RETURN(overrides, Settings::Parse(ref.settings_json(), "settings_json"));
  }

  {
    absl::MutexLock lock(&mutex_);
    const auto free = [](bool* loading) { return !*loading; };
    while (!mutex_.AwaitWithTimeout(absl::Condition(+free, &loading_), absl::Milliseconds(10))) {
      EIGSVC_RETURN_IF_ERROR(stop.Check());
    }
    loading_ = true;
  }
  const absl::Cleanup done = [this] {
    absl::MutexLock lock(&mutex_);
    loading_ = false;
  };

  if (ref.source_case() == v1::CheckpointRef::kInitializer) {
    EIGSVC_ASSIGN_OR_RETURN(Handle base, AcquireInitialized(ref.initializer(), overrides, options));
    if (!ref.has_twin_seed()) return base;
    return MakeTwin(std::move(base), ref.twin_seed(), options);
  }
  EIGSVC_ASSIGN_OR_RETURN(Handle model, AcquireTrained(checkpoint, overrides, residency, options));
  if (whole && !model->model->weights().streamed()) {  // an earlier job may have left some layers out
    EIGSVC_RETURN_IF_ERROR(model->model->weights().Whole(stop).status());
  }
  return model;
}

absl::StatusOr<ModelPool::Handle> ModelPool::AcquireTrained(const worker::v1::ResolvedCheckpoint& checkpoint,
                                                            const Settings& overrides,
                                                            std::optional<Residency> residency,
                                                            LoadOptions options) {
  if (checkpoint.path().empty()) {
    return absl::InvalidArgumentError(
        "the checkpoint names no source; set a name, a digest, a path or an initializer");
  }
  const v1::CheckpointRef& ref = checkpoint.ref();
  // What stands for the bytes without reading them: an addressed copy's digest, which never changes, or the
  // look of the files. Taken before the bytes are read: a change in between makes the next look-up miss,
  // never hit wrongly.
  const std::string fingerprint =
      checkpoint.immutable() && !ref.sha256().empty() ? ref.sha256() : Fingerprint(checkpoint.path());
  Handle base;
  if (const std::string digest = KnownDigest(fingerprint); !digest.empty()) {
    // Auto comes to the same for the same checkpoint: whichever is here.
    for (const Residency either : {Residency::kAll, Residency::kLayer}) {
      if (base != nullptr || (residency && *residency != either)) continue;
      options.residency = either;
      const std::string id = CheckpointId(digest, overrides, options);
      if (Handle found = Find(ref.has_twin_seed() ? TwinId(id, ref.twin_seed()) : id)) return found;
      base = Find(id);
    }
  }
  if (base == nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(const Archive archive,
                            Archive::Open(checkpoint.path(), {.memory_map = checkpoint.immutable(),
                                                              .on_demand = !checkpoint.immutable(),
                                                              .stop = options.stop,
                                                              .reader = reader_}));
    EIGSVC_ASSIGN_OR_RETURN(const ModelOutline outline, DescribeModel(archive, overrides));
    options.residency = residency.value_or(Residency::kAll);
    if (!residency && WeightBytes(outline.plan, options) > budget_bytes_)
      options.residency = Residency::kLayer;
    if (!fingerprint.empty()) {
      absl::MutexLock lock(&mutex_);
      if (digests_.size() >= kMaxDigests) digests_.clear();
      digests_[fingerprint] = archive.sha256();
    }
    const std::string id = CheckpointId(archive.sha256(), overrides, options);
    if (ref.has_twin_seed()) {
      if (Handle found = Find(TwinId(id, ref.twin_seed()))) return found;
    }
    base = Find(id);
    if (base == nullptr) {
      EIGSVC_RETURN_IF_ERROR(MakeRoom(WeightBytes(outline.plan, options)));  // before the memory is taken
      EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const SequenceModel> model,
                              LoadModel(archive, overrides, options));
      v1::Model description = ModelProto(model->description());
      description.set_checkpoint_sha256(archive.sha256());
      EIGSVC_ASSIGN_OR_RETURN(base, Keep({id, std::move(model), archive.settings().MergedWith(overrides),
                                          std::move(description)}));
    }
  }
  if (!ref.has_twin_seed()) return base;
  return MakeTwin(std::move(base), ref.twin_seed(), options);
}

absl::StatusOr<ModelPool::Handle> ModelPool::AcquireInitialized(const v1::Initializer& initializer,
                                                                const Settings& settings,
                                                                const LoadOptions& options) {
  const std::string id = HashId({device_name_, "initializer", initializer.family(), settings.ToJson(),
                                 DtypeName(options.dtype), absl::StrCat(initializer.seed())});
  if (Handle found = Find(id)) return found;
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(initializer.family()));
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const SequenceModel> model,
                          InitializeModel(*family, settings, initializer.seed(), options));
  v1::Model description = ModelProto(model->description());
  description.set_initial_seed(initializer.seed());
  return Keep({id, std::move(model), settings, std::move(description)});
}

absl::StatusOr<ModelPool::Handle> ModelPool::MakeTwin(Handle base, uint64_t seed,
                                                      const LoadOptions& options) {
  const std::string id = TwinId(base->id, seed);
  if (Handle found = Find(id)) return found;
  // Both are held for a moment. Where only one fits the budget, the base goes before the twin is kept.
  MakeRoom(base->size_bytes).IgnoreError();
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const SequenceModel> model,
                          InitializeTwin(*base->model, seed, options));
  PooledModel twin{id, std::move(model), base->settings, base->description};
  twin.description.set_initial_seed(seed);
  base.reset();
  return Keep(std::move(twin));
}

std::string ModelPool::CheckpointId(const std::string& digest, const Settings& overrides,
                                    const LoadOptions& options) const {
  return HashId({device_name_, "checkpoint", digest, overrides.ToJson(), DtypeName(options.dtype),
                 options.residency == Residency::kLayer ? "layer" : "all"});
}

std::string ModelPool::KnownDigest(const std::string& fingerprint) const {
  absl::MutexLock lock(&mutex_);
  const auto found = digests_.find(fingerprint);
  return found == digests_.end() ? "" : found->second;
}

ModelPool::Handle ModelPool::Find(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.model->id == id; });
  if (found == entries_.end()) return nullptr;
  found->last_use = absl::Now();
  entries_.splice(entries_.begin(), entries_, found);
  return found->model;
}

absl::StatusOr<ModelPool::Handle> ModelPool::Keep(PooledModel model) {
  LoadOptions held;
  held.dtype = model.model->dtype();
  held.residency = model.model->weights().streamed() ? Residency::kLayer : Residency::kAll;
  model.size_bytes = WeightBytes(model.model->plan(), held);
  model.description.set_device(device_name_);
  model.description.set_model_id(model.id);
  model.description.set_dtype(DtypeName(held.dtype));
  model.description.set_residency(held.residency == Residency::kLayer ? "layer" : "all");
  EIGSVC_RETURN_IF_ERROR(MakeRoom(model.size_bytes));
  for (size_t i = 1; i < devices_.size() && held.residency == Residency::kAll; ++i) {
    EIGSVC_RETURN_IF_ERROR(CallTorchStatus("weights on another device", [&] {
      model.replicas.push_back(model.model->weights().On(devices_[i]));
      return absl::OkStatus();
    }));
  }
  auto handle = std::make_shared<const PooledModel>(std::move(model));
  absl::MutexLock lock(&mutex_);
  entries_.push_front({handle, absl::Now()});
  return handle;
}

absl::Status ModelPool::MakeRoom(int64_t bytes) {
  std::list<Entry> dropped;  // freed after the lock
  absl::MutexLock lock(&mutex_);
  int64_t busy = 0, idle = 0;
  std::erase_if(leaving_, [](const auto& model) { return model.expired(); });
  for (const auto& leaving : leaving_) {
    if (const Handle model = leaving.lock()) busy += model->size_bytes;
  }
  // Only a load makes new handles, and there is one load at a time: an idle model stays idle while we look.
  for (const Entry& entry : entries_) (entry.model.use_count() == 1 ? idle : busy) += entry.model->size_bytes;
  if (bytes > budget_bytes_ - busy) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the model's weights need ", Gibibytes(bytes), ", but the worker keeps at most ",
                     Gibibytes(budget_bytes_), " loaded (--model-memory-bytes), of which running jobs hold ",
                     Gibibytes(busy), "; raise the budget, wait for the jobs, or ask for a smaller dtype"));
  }
  for (auto it = entries_.end(); it != entries_.begin() && busy + idle + bytes > budget_bytes_;) {
    --it;
    if (it->model.use_count() > 1) continue;
    idle -= it->model->size_bytes;
    const auto victim = it++;
    dropped.splice(dropped.end(), entries_, victim);
  }
  return absl::OkStatus();
}

absl::Status ModelPool::Unload(const std::string& id) {
  Handle dropped;  // freed after the lock
  absl::MutexLock lock(&mutex_);
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.model->id == id; });
  if (found == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat("no loaded model \"", id, "\"; list the loaded models for their ids"));
  }
  dropped = found->model;
  if (dropped.use_count() > 2) leaving_.push_back(dropped);
  entries_.erase(found);
  return absl::OkStatus();
}

std::vector<v1::LoadedModel> ModelPool::List() const {
  std::vector<v1::LoadedModel> models;
  absl::MutexLock lock(&mutex_);
  for (const Entry& entry : entries_) models.push_back(LoadedModelProto(*entry.model, entry.last_use));
  return models;
}

}  // namespace eigsvc
