#include "models/mixers/normaliser_report.h"

#include "models/transition/normaliser.h"

namespace eigsvc {

absl::Status ReportNormaliser(const LayerCall& call, absl::string_view mixer, at::Tensor& last,
                              const at::Tensor& log_eta, int64_t multiplicity,
                              const NoiseFloor& noise_floor) {
  const at::Tensor previous = last, all = log_eta.detach().transpose(1, 2);  // [B,H,T]
  last = all.narrow(-1, all.size(-1) - 1, 1);
  if ((!previous.defined() && all.size(-1) == 1) || !call.Wants(mixer)) return absl::OkStatus();
  return call.Report(
      mixer, UnitKind::kHead,
      call.context.convention.gauge == Gauge::kRaw
          ? SummingTransition(all.size(1), multiplicity)
          : NormaliserTransition(all, previous, call.state.position, multiplicity, noise_floor));
}

}  // namespace eigsvc
