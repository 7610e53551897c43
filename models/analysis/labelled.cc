#include "models/analysis/labelled.h"

#include <algorithm>
#include <cmath>

#include "ATen/ops/empty.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

// Logits at a time: 16 MiB of float32, and on two cores well under 100 ms of head for any usual width.
constexpr int64_t kLogitsAtOnce = int64_t{1} << 22;

absl::Status AppendPredictions(const at::Tensor& logits, const Batch& batch, const Labelled& labelled,
                               int64_t from, int64_t first_example, std::vector<Prediction>& predictions) {
  return CallTorchStatus("score", [&] {
    // [M,V], at least float32: a sum over the vocabulary in half precision is no score.
    const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits[0] : logits[0].to(at::kFloat);
    const int64_t count = wide.size(0);
    const std::vector<int64_t> targets(labelled.targets.begin() + from,
                                       labelled.targets.begin() + from + count);
    const at::Tensor index = IndexTensor(targets, wide.device()).unsqueeze(1);
    const at::Tensor nll =
        wide.logsumexp(1).sub(wide.gather(1, index).squeeze(1)).to(at::kCPU, at::kDouble).contiguous();
    const at::Tensor predicted = wide.argmax(1).to(at::kCPU).contiguous();  // the first of equal maxima
    for (int64_t i = 0; i < count; ++i) {
      predictions.push_back({first_example + labelled.positions[from + i] / batch.target_steps(),
                             predicted.const_data_ptr<int64_t>()[i], targets[i],
                             nll.const_data_ptr<double>()[i]});
    }
    return absl::OkStatus();
  });
}

}  // namespace

Labelled FindLabelled(const Batch& batch) {
  Labelled labelled;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] == kIgnoredTarget) continue;
    labelled.positions.push_back(static_cast<int64_t>(i));
    labelled.targets.push_back(batch.targets[i]);
  }
  return labelled;
}

absl::Status CheckFits(const Task& task, const ModelDescription& model) {
  const TaskSignature& signature = task.signature();
  if (signature.channels > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "task \"", task.name(), "\" feeds ", signature.channels, " real numbers a step, but this ",
        model.family, " model takes tokens; choose the task's token input, or a model of real inputs"));
  }
  if (signature.vocab_size > model.vocab_size) {
    const absl::string_view remedy =
        task.parameters().Has("vocab_size")
            ? "lower the task's parameter vocab_size, or give a model with a larger vocabulary"
            : "give data of smaller token ids (another tokenizer?), or a model with a larger vocabulary";
    return absl::FailedPreconditionError(absl::StrCat(
        "task \"", task.name(), "\" uses token ids up to ", signature.vocab_size - 1, ", but this ",
        model.family, " model has a vocabulary of ", model.vocab_size, "; ", remedy));
  }
  if (signature.classes > model.vocab_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("task \"", task.name(), "\" has ", signature.classes, " classes, but this ",
                     model.family, " model tells ", model.vocab_size, " apart; give one with more outputs"));
  }
  return absl::OkStatus();
}

absl::Status CheckBatch(const Task& task, const Batch& batch, Split split, int64_t first_example,
                        int64_t vocab_size) {
  // `width`: entries a row.
  const auto where = [&](size_t at, int64_t width) {
    const int64_t row = static_cast<int64_t>(at) / width;
    return absl::StrCat("task ", task.name(), ", ", SplitName(split), " example ", first_example + row,
                        ", position ", static_cast<int64_t>(at) - row * width);
  };
  const auto check_ids = [&](absl::string_view kind, const std::vector<int64_t>& ids,
                             int64_t width) -> absl::Status {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab_size) continue;
      if (kind == "target" && ids[i] == kIgnoredTarget) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          where(i, width), ": ", kind, " ", ids[i], " does not lie below the model's vocabulary of ",
          vocab_size, "; use a task or data with a smaller vocabulary, or another checkpoint"));
    }
    return absl::OkStatus();
  };
  EIGSVC_RETURN_IF_ERROR(check_ids("token id", batch.tokens, batch.steps));
  EIGSVC_RETURN_IF_ERROR(check_ids("target", batch.targets, batch.target_steps()));
  for (size_t i = 0; i < batch.values.size(); ++i) {
    if (std::isfinite(batch.values[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(where(i / batch.channels, batch.steps), ": the input is ",
                                                   batch.values[i], "; inputs must be finite"));
  }
  return absl::OkStatus();
}

at::Tensor IndexTensor(const std::vector<int64_t>& values, c10::Device device) {
  // From page-locked memory a copy to a CUDA device runs beside the computation.
  const bool remote = device.is_cuda();
  at::Tensor tensor =
      at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions(at::kLong).pinned_memory(remote));
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor.to(device, at::kLong, /*non_blocking=*/remote);
}

at::Tensor TokenTensor(const Batch& batch, c10::Device device) {
  return IndexTensor(batch.tokens, device).view({batch.rows, batch.steps});
}

at::Tensor AskedStates(const at::Tensor& x, const Batch& batch) {
  if (batch.target_steps() == batch.steps) return x;
  std::vector<int64_t> last;
  for (int64_t row = 0; row < batch.rows; ++row) last.push_back(row * batch.steps + batch.lengths[row] - 1);
  return GatherPositions(x, IndexTensor(last, x.device())).transpose(0, 1);
}

at::Tensor GatherPositions(const at::Tensor& x, const at::Tensor& positions) {
  return x.reshape({x.size(0) * x.size(1), x.size(2)}).index_select(0, positions).unsqueeze(0);
}

absl::StatusOr<std::vector<Prediction>> Predict(const SequenceModel& model, const ModelWeights& weights,
                                                const Batch& batch, int64_t first_example,
                                                const at::Tensor& x, const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor asked,
                          CallTorch("labelled positions", [&] { return AskedStates(x, batch); }));
  const Labelled labelled = FindLabelled(batch);
  const int64_t total = static_cast<int64_t>(labelled.positions.size());
  const int64_t step =
      std::max<int64_t>(1, kLogitsAtOnce / std::max<int64_t>(1, model.description().vocab_size));
  std::vector<Prediction> predictions;
  predictions.reserve(total);
  for (int64_t from = 0; from < total; from += step) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    const std::vector<int64_t> positions(labelled.positions.begin() + from,
                                         labelled.positions.begin() + std::min(from + step, total));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor chosen, CallTorch("labelled positions", [&] {
                              return GatherPositions(asked, IndexTensor(positions, x.device()));
                            }));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor logits, model.Head(weights, chosen));
    EIGSVC_RETURN_IF_ERROR(AppendPredictions(logits, batch, labelled, from, first_example, predictions));
  }
  return predictions;
}

}  // namespace eigsvc
