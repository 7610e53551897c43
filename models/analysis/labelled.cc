#include "models/analysis/labelled.h"

#include <algorithm>

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
      predictions.push_back({first_example + labelled.positions[from + i] / batch.steps,
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

absl::Status CheckTokenIds(const Task& task, const Batch& batch, Split split, int64_t first_example,
                           int64_t vocab_size) {
  const auto check = [&](absl::string_view kind, size_t at, int64_t id) -> absl::Status {
    if (id >= 0 && id < vocab_size) return absl::OkStatus();
    const int64_t row = static_cast<int64_t>(at) / batch.steps;
    return absl::InvalidArgumentError(
        absl::StrCat("task ", task.name(), ", ", SplitName(split), " example ", first_example + row,
                     ", position ", static_cast<int64_t>(at) - row * batch.steps, ": ", kind, " ", id,
                     " does not lie below the model's vocabulary of ", vocab_size,
                     "; use a task or data with a smaller vocabulary, or another checkpoint"));
  };
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    EIGSVC_RETURN_IF_ERROR(check("token id", i, batch.tokens[i]));
    if (batch.targets[i] != kIgnoredTarget) EIGSVC_RETURN_IF_ERROR(check("target", i, batch.targets[i]));
  }
  return absl::OkStatus();
}

at::Tensor IndexTensor(const std::vector<int64_t>& values, c10::Device device) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor.to(device);
}

at::Tensor TokenTensor(const Batch& batch, c10::Device device) {
  return IndexTensor(batch.tokens, device).view({batch.rows, batch.steps});
}

at::Tensor GatherPositions(const at::Tensor& x, const at::Tensor& positions) {
  return x.reshape({x.size(0) * x.size(1), x.size(2)}).index_select(0, positions).unsqueeze(0);
}

absl::StatusOr<std::vector<Prediction>> Predict(const SequenceModel& model, const ModelWeights& weights,
                                                const Batch& batch, int64_t first_example,
                                                const at::Tensor& x, const StopToken& stop) {
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
                              return GatherPositions(x, IndexTensor(positions, x.device()));
                            }));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor logits, model.Head(weights, chosen));
    EIGSVC_RETURN_IF_ERROR(AppendPredictions(logits, batch, labelled, from, first_example, predictions));
  }
  return predictions;
}

}  // namespace eigsvc
