#include "server/jobs/spec_checks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "models/base/convention.h"
#include "models/base/job_limits.h"
#include "models/base/solver_precision.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/base/utf8.h"
#include "models/base/window.h"
#include "nlohmann/json.hpp"

namespace eigsvc {
namespace {

constexpr size_t kMaxJsonBytes = 64 << 10;
constexpr int kMaxJsonDepth = 32;
constexpr size_t kMaxNameBytes = 4096;

// Client text inside a message: escaped and cut, so that a message stays one readable line.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(ToUtf8(text, 103)), "\"");
}

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " ", value, " is not in [", low, ", ", high, "]"));
}

// Written so that NaN is out of range. Twelve digits: StrCat's six would say 1 of what is next to it.
absl::Status CheckReal(absl::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s %.12g is not in [%.12g, %.12g]", field, value, low, high));
}

absl::Status CheckJsonObject(absl::string_view field, const std::string& text) {
  if (text.empty()) return absl::OkStatus();
  if (text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", text.size(), " bytes; at most ", kMaxJsonBytes, " are taken"));
  }
  bool too_deep = false;
  const nlohmann::json json = nlohmann::json::parse(
      text,
      [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        too_deep |= depth > kMaxJsonDepth;
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(absl::StrCat(field, " nests deeper than ", kMaxJsonDepth, " levels"));
  }
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(field, " is not a JSON object: ", Quoted(text)));
  }
  return absl::OkStatus();
}

absl::Status CheckPathLike(absl::string_view field, const std::string& value) {
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat(field, " is set but empty"));
  if (value.size() > kMaxNameBytes || value.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(field, " ", Quoted(value), " is longer than ",
                                                   kMaxNameBytes, " bytes or holds a zero byte"));
  }
  return absl::OkStatus();
}

template <typename Entries>
std::vector<std::string> Names(const Entries& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.push_back(entry.name());
  return names;
}

absl::Status CheckFamily(const std::string& family, const Known& known) {
  if (family.empty())
    return absl::InvalidArgumentError("initializer.family is empty; ListModels returns the families");
  if (known.catalog == nullptr) return absl::OkStatus();
  const auto& models = known.catalog->models();
  const auto found =
      std::find_if(models.begin(), models.end(), [&](const auto& m) { return m.name() == family; });
  if (found == models.end()) return UnknownName("model family", family, Names(models));
  if (found->trainable()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("model family ", Quoted(family), " has no initialiser here; name a checkpoint instead"));
}

absl::Status CheckData(const v1::DataRef& data) {
  switch (data.source_case()) {
    case v1::DataRef::kName:
      return CheckPathLike("task.data.name", data.name());
    case v1::DataRef::kSha256:
      return CheckSha256("task.data.sha256", data.sha256());
    case v1::DataRef::kLocalPath:
      return CheckPathLike("task.data.local_path", data.local_path());
    case v1::DataRef::SOURCE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "task.data names no source; set name, sha256 or local_path, or leave it out");
}

absl::Status MissingData(const v1::TaskInfo& task) {
  const v1::TaskDataInfo& data = task.data();
  std::string files;
  for (const v1::TaskFileInfo& file : data.files())
    absl::StrAppend(&files, files.empty() ? "" : ", ", file.name());
  return absl::InvalidArgumentError(absl::StrCat(
      "task ", Quoted(task.name()), " reads data that the request does not name",
      data.names().empty()
          ? ""
          : absl::StrCat(", and the data root holds none of ", absl::StrJoin(data.names(), ", ")),
      "; set task.data (--data)", files.empty() ? "" : absl::StrCat("; files: ", files),
      "; `eigsvc tasks describe ", task.name(), "` says more"));
}

absl::Status CheckTask(const v1::TaskSpec& task, const Known& known) {
  if (task.name().empty())
    return absl::InvalidArgumentError("task.name is required; ListTasks returns the tasks");
  if (!task.split().empty() && task.split() != "train" && task.split() != "test") {
    return absl::InvalidArgumentError(absl::StrCat("task.split ", Quoted(task.split()),
                                                   R"( is neither "train" nor "test" (also when empty))"));
  }
  EIGSVC_RETURN_IF_ERROR(CheckJsonObject("task.parameters_json", task.parameters_json()));
  if (task.has_data()) EIGSVC_RETURN_IF_ERROR(CheckData(task.data()));
  if (known.catalog == nullptr) return absl::OkStatus();
  const auto& tasks = known.catalog->tasks();
  const auto found =
      std::find_if(tasks.begin(), tasks.end(), [&](const auto& t) { return t.name() == task.name(); });
  if (found == tasks.end()) return UnknownName("task", task.name(), Names(tasks));
  if (found->needs_data() && !task.has_data()) return MissingData(*found);
  return absl::OkStatus();
}

absl::Status CheckWindow(const v1::AnalysisSpec& spec) {
  if (!spec.has_window()) return absl::OkStatus();
  EIGSVC_ASSIGN_OR_RETURN(const Window window, MakeWindow(spec.window().length(), spec.window().stride()));
  const int64_t steps = spec.max_steps() - (spec.include_first_step() ? 0 : 1);
  if (spec.max_steps() == 0 || window.length <= steps) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("window.length ", window.length, " is longer than the ",
                                                 steps, " steps that count of sequences cut to max_steps ",
                                                 spec.max_steps()));
}

// Numbers that bound one another, in range each. Unset ones read as 0, which no bound is below.
absl::Status CheckSchedule(const v1::TrainingSpec& spec) {
  const char* const given_rate = spec.has_learning_rate() ? "" : " (the default)";
  const double rate = spec.has_learning_rate() ? spec.learning_rate() : kDefaultLearningRate;
  if (spec.final_learning_rate() > rate) {
    return absl::InvalidArgumentError(absl::StrCat("final_learning_rate ", spec.final_learning_rate(),
                                                   " is above learning_rate ", rate, given_rate,
                                                   "; lower it, or raise learning_rate"));
  }
  const char* const given_steps = spec.has_steps() ? "" : " (the default)";
  const int64_t steps = spec.has_steps() ? spec.steps() : kDefaultTrainingSteps;
  if (spec.warmup_steps() > steps) {
    return absl::InvalidArgumentError(absl::StrCat("warmup_steps ", spec.warmup_steps(),
                                                   " is more than steps ", steps, given_steps,
                                                   "; lower it, or raise steps"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSha256(absl::string_view field, absl::string_view sha256) {
  const bool hex = std::all_of(sha256.begin(), sha256.end(),
                               [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
  if (hex && sha256.size() == 64) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " ", Quoted(sha256), " is not a SHA-256: 64 lower-case hexadecimal digits"));
}

absl::Status CheckDtype(absl::string_view dtype) {
  static constexpr std::array<absl::string_view, 4> kDtypes = {"float32", "float64", "bfloat16", "float16"};
  if (dtype.empty() || std::find(kDtypes.begin(), kDtypes.end(), dtype) != kDtypes.end())
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("dtype ", Quoted(dtype), " is none of ", absl::StrJoin(kDtypes, ", ")));
}

absl::Status CheckResidency(absl::string_view residency) {
  if (residency.empty() || residency == "auto" || residency == "all" || residency == "layer")
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("residency ", Quoted(residency), " is none of auto, all, layer"));
}

absl::Status CheckDevice(const std::string& device, const Known& known) {
  if (device.empty() || std::count(known.devices.begin(), known.devices.end(), device) > 0)
    return absl::OkStatus();
  return UnknownName("device", device, known.devices);
}

absl::Status CheckCheckpoint(const v1::CheckpointRef& ref, const Known& known) {
  EIGSVC_RETURN_IF_ERROR(CheckJsonObject("checkpoint.settings_json", ref.settings_json()));
  switch (ref.source_case()) {
    case v1::CheckpointRef::kName:
      return CheckPathLike("checkpoint.name", ref.name());
    case v1::CheckpointRef::kSha256:
      return CheckSha256("checkpoint.sha256", ref.sha256());
    case v1::CheckpointRef::kLocalPath:
      return CheckPathLike("checkpoint.local_path", ref.local_path());
    case v1::CheckpointRef::kInitializer:
      if (ref.has_twin_seed()) {
        return absl::InvalidArgumentError(
            "checkpoint.twin_seed needs a checkpoint to be a twin of; an initializer has its own seed");
      }
      return CheckFamily(ref.initializer().family(), known);
    case v1::CheckpointRef::SOURCE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "the checkpoint names no source; set name, sha256, local_path or initializer");
}

absl::Status CheckSpec(const v1::AnalysisSpec& spec, const Known& known) {
  EIGSVC_RETURN_IF_ERROR(CheckCheckpoint(spec.checkpoint(), known));
  EIGSVC_RETURN_IF_ERROR(CheckTask(spec.task(), known));
  EIGSVC_RETURN_IF_ERROR(CheckRange("examples", spec.examples(), 0, kMaxJobExamples));
  EIGSVC_RETURN_IF_ERROR(CheckRange("batch_size", spec.batch_size(), 0, kMaxBatchSize));
  EIGSVC_RETURN_IF_ERROR(CheckRange("max_steps", spec.max_steps(), 0, kMaxSequenceSteps));
  EIGSVC_RETURN_IF_ERROR(CheckWindow(spec));
  EIGSVC_RETURN_IF_ERROR(CheckDtype(spec.dtype()));
  EIGSVC_RETURN_IF_ERROR(ParseConvention(spec.definition(),
                                         {spec.departures().begin(), spec.departures().end()}, spec.gauge(),
                                         spec.rotation())
                             .status());
  EIGSVC_RETURN_IF_ERROR(ParseSolverPrecision(spec.precision()).status());
  EIGSVC_RETURN_IF_ERROR(CheckResidency(spec.residency()));
  return CheckDevice(spec.device(), known);
}

absl::Status CheckSpec(const v1::TrainingSpec& spec, const Known& known) {
  EIGSVC_RETURN_IF_ERROR(CheckCheckpoint(spec.start(), known));
  if (spec.resume() && (spec.start().has_initializer() || spec.start().has_twin_seed())) {
    return absl::InvalidArgumentError(
        "resume needs the \"last\" checkpoint of an earlier run as start, not an initializer or a twin");
  }
  EIGSVC_RETURN_IF_ERROR(CheckTask(spec.task(), known));
  // An unset field reads as 0, which is not what it stands for: only what was set is checked.
  const auto whole = [](bool set, absl::string_view field, int64_t value, int64_t low, int64_t high) {
    return set ? CheckRange(field, value, low, high) : absl::OkStatus();
  };
  const auto real = [](bool set, absl::string_view field, double value, double low, double high) {
    return set ? CheckReal(field, value, low, high) : absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(whole(spec.has_steps(), "steps", spec.steps(), 1, kMaxTrainingSteps));
  EIGSVC_RETURN_IF_ERROR(whole(spec.has_batch_size(), "batch_size", spec.batch_size(), 1, kMaxBatchSize));
  EIGSVC_RETURN_IF_ERROR(
      whole(spec.has_warmup_steps(), "warmup_steps", spec.warmup_steps(), 0, kMaxTrainingSteps));
  EIGSVC_RETURN_IF_ERROR(whole(spec.has_eval_every(), "eval_every", spec.eval_every(), 1, kMaxTrainingSteps));
  EIGSVC_RETURN_IF_ERROR(
      whole(spec.has_eval_examples(), "eval_examples", spec.eval_examples(), 1, kMaxJobExamples));
  EIGSVC_RETURN_IF_ERROR(real(spec.has_learning_rate(), "learning_rate", spec.learning_rate(),
                              kMinLearningRate, kMaxLearningRate));
  EIGSVC_RETURN_IF_ERROR(real(spec.has_final_learning_rate(), "final_learning_rate",
                              spec.final_learning_rate(), 0, kMaxLearningRate));
  // 0 stands for learning_rate.
  EIGSVC_RETURN_IF_ERROR(real(spec.recurrence_learning_rate() != 0, "recurrence_learning_rate",
                              spec.recurrence_learning_rate(), kMinLearningRate, kMaxLearningRate));
  EIGSVC_RETURN_IF_ERROR(real(spec.has_beta2(), "beta2", spec.beta2(), 0, kMaxBeta2));
  EIGSVC_RETURN_IF_ERROR(
      real(spec.has_weight_decay(), "weight_decay", spec.weight_decay(), 0, kMaxWeightDecay));
  EIGSVC_RETURN_IF_ERROR(
      real(spec.has_gradient_clip(), "gradient_clip", spec.gradient_clip(), 0, kMaxGradientClip));
  EIGSVC_RETURN_IF_ERROR(real(spec.has_stop_at_score(), "stop_at_score", spec.stop_at_score(), 0, 1));
  EIGSVC_RETURN_IF_ERROR(CheckSchedule(spec));
  return CheckDevice(spec.device(), known);
}

absl::StatusOr<worker::v1::ResolvedCheckpoint> ResolveCheckpoint(const v1::CheckpointRef& ref, Store& store) {
  worker::v1::ResolvedCheckpoint resolved;
  *resolved.mutable_ref() = ref;
  ResolvedPath path;
  if (ref.has_name()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveName(StoreKind::kCheckpoint, ref.name()));
  } else if (ref.has_sha256()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveDigest(StoreKind::kCheckpoint, ref.sha256()));
  } else if (ref.has_local_path()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveLocal(StoreKind::kCheckpoint, ref.local_path()));
  }
  resolved.set_path(path.path);
  resolved.set_immutable(path.immutable);
  return resolved;
}

absl::StatusOr<std::string> ResolveData(const v1::DataRef& data, Store& store) {
  ResolvedPath path;
  if (data.has_name()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveName(StoreKind::kData, data.name()));
  } else if (data.has_sha256()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveDigest(StoreKind::kData, data.sha256()));
  } else if (data.has_local_path()) {
    EIGSVC_ASSIGN_OR_RETURN(path, store.ResolveLocal(StoreKind::kData, data.local_path()));
  }
  return path.path;
}

std::string FindData(const v1::TaskInfo& task, Store& store) {
  for (const std::string& name : task.data().names()) {
    if (store.ResolveName(StoreKind::kData, name).ok()) return name;
  }
  return "";
}

void ChooseData(v1::TaskSpec& task, const Known& known, Store& store) {
  if (task.has_data() || known.catalog == nullptr) return;
  for (const v1::TaskInfo& info : known.catalog->tasks()) {
    if (info.name() != task.name() || !info.needs_data()) continue;
    const std::string name = FindData(info, store);
    if (!name.empty()) task.mutable_data()->set_name(name);
  }
}

}  // namespace eigsvc
