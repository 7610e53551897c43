#include "models/training/loss.h"

#include "ATen/ops/cross_entropy_loss.h"
#include "models/analysis/labelled.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {

absl::StatusOr<at::Tensor> TrainingLoss(const SequenceModel& model, const ModelWeights& weights,
                                        const Batch& batch, const StopToken& stop, TrainingMode* training) {
  const Labelled labelled = FindLabelled(batch);
  if (labelled.positions.empty()) {
    return absl::FailedPreconditionError("a training batch has no position to learn from");
  }
  const c10::Device device = weights.Distinct().front().device();
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor inputs,
                          CallTorch("inputs", [&] { return InputTensor(batch, device); }));
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, model.Embed(weights, inputs, /*first_position=*/0));
  LayerContext context;
  context.stop = &stop;
  context.training = training;
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    EIGSVC_ASSIGN_OR_RETURN(
        x, model.Layer(static_cast<int>(layer), weights.layers[layer], x, /*state=*/nullptr, context));
  }
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor asked, AskedStates(model, weights, x, batch));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor chosen, CallTorch("labelled positions", [&] {
                            return GatherPositions(asked, IndexTensor(labelled.positions, device));
                          }));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor logits, model.Head(weights, chosen));
  return CallTorch("loss",
                   [&] { return at::cross_entropy_loss(logits[0], IndexTensor(labelled.targets, device)); });
}

}  // namespace eigsvc
