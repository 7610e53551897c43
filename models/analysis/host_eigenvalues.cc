#include "models/analysis/host_eigenvalues.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

at::Tensor ToHost(const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return tensor.detach().to(at::kCPU, type).contiguous();
}

}  // namespace

absl::StatusOr<Eigenvalues> ComputeReported(const Transition& transition, int layer, absl::string_view mixer,
                                            int64_t rows, int64_t steps, const EigenvalueOptions& options) {
  const std::string site = absl::StrCat("layer ", layer, ", ", mixer);
  absl::StatusOr<Eigenvalues> values = ComputeEigenvalues(transition, options);
  if (!values.ok()) return Annotate(values.status(), site);
  const at::IntArrayRef shape = values->log_magnitude.sizes();
  const bool fits = transition.constant ? shape[0] == 1 && shape[1] == 1
                                        : shape[0] == rows && transition.first_step >= 0 &&
                                              transition.first_step + shape[1] <= steps;
  if (!fits || (values->phase.defined() && values->phase.sizes() != shape)) {
    return absl::InternalError(absl::StrCat(site, ": eigenvalues of shape [", absl::StrJoin(shape, ","),
                                            "] from step ", transition.first_step, " were reported for ",
                                            rows, " rows of ", steps, " steps"));
  }
  return values;
}

absl::StatusOr<HostEigenvalues> ComputeHostEigenvalues(const Transition& transition, int layer,
                                                       absl::string_view mixer, int64_t rows, int64_t steps,
                                                       const EigenvalueOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(Eigenvalues values,
                          ComputeReported(transition, layer, mixer, rows, steps, options));
  return CallTorch(absl::StrCat("layer ", layer, ", ", mixer), [&] {
    values.log_magnitude = ToHost(values.log_magnitude);
    if (values.phase.defined()) values.phase = ToHost(values.phase).to(values.log_magnitude.scalar_type());
    const at::Tensor& floor = transition.device_noise_floor;
    return HostEigenvalues{std::move(values), transition.constant, transition.first_step,
                           floor.defined() ? floor.item<double>() : transition.noise_floor};
  });
}

}  // namespace eigsvc
