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

template <typename T>
at::Tensor ToDevice(const std::vector<T>& values, at::ScalarType type, c10::Device device) {
  // From page-locked memory a copy to a CUDA device runs beside the computation.
  const bool remote = device.is_cuda();
  at::Tensor tensor =
      at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions(type).pinned_memory(remote));
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<T>());
  return tensor.to(device, type, /*non_blocking=*/remote);
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
  const auto refuse = [&](auto... parts) {
    return absl::FailedPreconditionError(absl::StrCat("task \"", task.name(), "\" ", parts...));
  };
  const std::string this_model = absl::StrCat("this ", model.family, " model");
  if (signature.channels != 0 && signature.channels != model.channels) {
    return refuse("feeds ", signature.channels, " real numbers a step, but ", this_model, " takes ",
                  model.channels > 0 ? absl::StrCat(model.channels) : "tokens",
                  "; choose another input of the task, or a model of such inputs");
  }
  if (signature.channels == 0 && model.vocab_size == 0) {
    return refuse("feeds tokens, but ", this_model, " takes ", model.channels,
                  " real numbers a step; choose another input of the task, or a model of tokens");
  }
  if (signature.vocab_size > model.vocab_size) {
    const absl::string_view remedy =
        signature.data_vocab_size > model.vocab_size ? "give data made with this model's tokenizer, or a "
        : task.parameters().Has("vocab_size")        ? "lower the task's parameter vocab_size, or give a "
                                                     : "give a ";
    return refuse("uses token ids up to ", signature.vocab_size - 1, ", but ", this_model,
                  " has a vocabulary of ", model.vocab_size, "; ", remedy, "model with a larger vocabulary");
  }
  if (signature.classes > model.classes) {
    return refuse("has ", signature.classes, " classes, but ", this_model, " tells ", model.classes,
                  " apart; give one with more outputs");
  }
  if (!signature.per_sequence && !model.pooling.empty()) {
    return refuse("asks at every step, but ", this_model, " answers once a sequence (pooling \"",
                  model.pooling, "\"); give one without pooling, or a classification task");
  }
  return absl::OkStatus();
}

absl::Status CheckBatch(const Task& task, const Batch& batch, Split split, int64_t first_example,
                        const ModelDescription& model) {
  // `width`: entries a row.
  const auto where = [&](size_t at, int64_t width) {
    const int64_t row = static_cast<int64_t>(at) / width;
    return absl::StrCat("task ", task.name(), ", ", SplitName(split), " example ", first_example + row,
                        ", position ", static_cast<int64_t>(at) - row * width);
  };
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.tokens[i] >= 0 && batch.tokens[i] < model.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(where(i, batch.steps), ": token id ", batch.tokens[i],
                     " does not lie below the model's vocabulary of ", model.vocab_size,
                     "; use a task or data with a smaller vocabulary, or another checkpoint"));
  }
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    const int64_t target = batch.targets[i];
    if (target == kIgnoredTarget || (target >= 0 && target < model.classes)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(where(i, batch.target_steps()), ": target ", target, " does not lie below the model's ",
                     model.classes, " classes; use a task of fewer classes, or another checkpoint"));
  }
  for (size_t i = 0; i < batch.values.size(); ++i) {
    if (std::isfinite(batch.values[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(where(i / batch.channels, batch.steps), ": the input is ",
                                                   batch.values[i], "; inputs must be finite"));
  }
  return absl::OkStatus();
}

at::Tensor IndexTensor(const std::vector<int64_t>& values, c10::Device device) {
  return ToDevice(values, at::kLong, device);
}

at::Tensor InputTensor(const Batch& batch, c10::Device device) {
  if (batch.channels > 0) {
    return ToDevice(batch.values, at::kFloat, device).view({batch.rows, batch.steps, batch.channels});
  }
  return IndexTensor(batch.tokens, device).view({batch.rows, batch.steps});
}

absl::StatusOr<at::Tensor> AskedStates(const SequenceModel& model, const ModelWeights& weights,
                                       const at::Tensor& x, const Batch& batch) {
  if (model.description().pooling.empty() && batch.target_steps() == batch.steps) return x;
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor lengths,
                          CallTorch("lengths", [&] { return IndexTensor(batch.lengths, x.device()); }));
  return model.Pool(weights, x, lengths);
}

at::Tensor GatherPositions(const at::Tensor& x, const at::Tensor& positions) {
  return x.reshape({x.size(0) * x.size(1), x.size(2)}).index_select(0, positions).unsqueeze(0);
}

absl::StatusOr<std::vector<Prediction>> Predict(const SequenceModel& model, const ModelWeights& weights,
                                                const Batch& batch, int64_t first_example,
                                                const at::Tensor& x, const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor asked, AskedStates(model, weights, x, batch));
  const Labelled labelled = FindLabelled(batch);
  const int64_t total = static_cast<int64_t>(labelled.positions.size());
  const int64_t step =
      std::max<int64_t>(1, kLogitsAtOnce / std::max<int64_t>(1, model.description().classes));
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
