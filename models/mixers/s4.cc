#include "models/mixers/s4.h"

#include <algorithm>
#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/atan2.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/log.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/real.h"
#include "ATen/ops/sqrt.h"
#include "ATen/ops/view_as_complex.h"
#include "models/base/status_macros.h"
#include "models/layers/hippo.h"
#include "models/layers/linear_time_invariant.h"
#include "models/transition/noise_floor.h"
#include "models/transition/paper_compat.h"

namespace eigsvc {
namespace {

// HiPPO-LegS's first `kept` values, repeated so that all `width` channels start the same: [N,D,2] and the
// like have them outermost, the state-spaces repository's innermost.
DrawTensor FromHippo(at::Tensor Hippo::*member, int64_t full, int64_t kept, int64_t width) {
  return [=](Random&, const Weights&, absl::Span<double> values) {
    const at::Tensor x = HippoLegS(full).*member;
    const auto* data = x.const_data_ptr<c10::complex<double>>();
    for (int64_t n = 0; n < kept; ++n) {
      for (int64_t d = 0; d < width; ++d) {
        values[2 * (n * width + d)] = data[n].real();
        values[2 * (n * width + d) + 1] = data[n].imag();
      }
    }
  };
}

at::Tensor WithConjugates(const at::Tensor& x) { return at::cat({x, x.conj()}, -1); }

}  // namespace

void S4::Plan(const WeightPlanner& planner) const {
  const StateSpaceStorage& storage = spec_.storage;
  const int64_t width = storage.width, order = storage.order;
  const auto add = [&](const char* name, std::vector<int64_t> shape, Draw draw) -> WeightSpec& {
    WeightSpec& spec = planner.Add(Name(name), std::move(shape), std::move(draw));
    spec.keep_float32 = true;
    spec.decays = false;
    return spec;
  };
  if (!spec_.all_states) {
    planner.Add(Name("D"), {storage.outputs, width}, DrawNormal(1)).decays = false;
    PlanStateSpace(planner, Name("kernel."), storage);
    // The reference's rank corrections beyond the first are zero for HiPPO-LegS.
    add("kernel.P", {spec_.rank, storage.copies, order, 2}, DrawConstant(0)).draw_tensor =
        [=, copies = storage.copies](Random&, const Weights&, absl::Span<double> values) {
          const at::Tensor p = HippoLegS(2 * order).p;
          const auto* data = p.const_data_ptr<c10::complex<double>>();
          std::fill(values.begin(), values.end(), 0.0);
          for (int64_t i = 0; i < copies * order; ++i) {
            values[2 * i] = data[i % order].real();
            values[2 * i + 1] = data[i % order].imag();
          }
        };
    return;
  }
  add("Lambda_re", {order, width}, DrawConstant(-0.5));
  add("Lambda_im", {order, width}, nullptr).draw_tensor = [=](Random&, const Weights&,
                                                              absl::Span<double> values) {
    const at::Tensor frequencies = at::imag(HippoLegS(order).lambda).contiguous();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = frequencies.const_data_ptr<double>()[static_cast<int64_t>(i) / width];
    }
  };
  add("P", {order, width, 2}, nullptr).draw_tensor = FromHippo(&Hippo::p, order, order, width);
  add("B", {order, width, 2}, nullptr).draw_tensor = FromHippo(&Hippo::b, order, order, width);
  add("C", {order, width, 2}, spec_.normal_output ? DrawNormal(std::sqrt(0.5)) : DrawLecunNormal(order));
  add("D", {1, width}, DrawConstant(1));
  add("log_step", {1, width}, DrawUniform(std::log(storage.least_step), std::log(storage.largest_step)));
}

DplrSystem S4::System(const LayerCall& call) const {
  const auto wide = [&](const char* name) { return Weight(call, name).to(at::kDouble); };
  if (spec_.all_states) {
    const auto complex = [&](const char* name) {
      return at::view_as_complex(wide(name).contiguous()).transpose(0, 1);  // [D,N]
    };
    const at::Tensor lambda =
        at::complex(wide("Lambda_re").clamp_max(-1e-4), wide("Lambda_im")).transpose(0, 1);
    const at::Tensor p = complex("P").unsqueeze(-1);
    return {
        lambda, p, p.conj(), complex("B"), complex("C").conj().unsqueeze(0), at::exp(wide("log_step"))[0]};
  }
  const StateSpaceParts parts = ReadStateSpace(call.weights, Name("kernel."), spec_.storage);
  const at::Tensor stored = at::view_as_complex(wide("kernel.P").contiguous()).movedim(0, -1);  // [S,N/2,R]
  const at::Tensor low = RepeatCopies(stored, spec_.storage.width);
  const at::Tensor p = at::cat({low, low.conj()}, 1);
  return {WithConjugates(parts.a), p, p.conj(), WithConjugates(parts.b), WithConjugates(parts.c), parts.step};
}

absl::Status S4::Report(const LayerCall& call, const DplrSystem& system) const {
  if (call.context.convention.departures.one_channel) return ReportOneChannel(call, system);
  // Channel i has matrix i mod S, so the first ones are all there are.
  const int64_t matrices = spec_.all_states ? spec_.storage.width : spec_.storage.copies;
  const auto unit = [matrices](const at::Tensor& x) {
    return x.detach().narrow(0, 0, matrices).resolve_conj().unsqueeze(0).unsqueeze(0);
  };
  Transition transition;
  transition.kind = DiagonalPlusLowRank{unit(system.lambda),       unit(system.p),     unit(system.q),
                                        Discretization::kBilinear, /*multiplicity=*/1, system.dt.detach()};
  transition.constant = true;
  transition.noise_floor = RoundingNoise(at::kDouble);
  return call.Report(kS4Mixer, UnitKind::kChannel, std::move(transition));
}

// The released analysis takes channel 1, in complex64; JAX the last one where there is no such.
absl::Status S4::ReportOneChannel(const LayerCall& call, const DplrSystem& system) const {
  const int64_t channel = std::min<int64_t>(1, spec_.storage.width - 1);
  const at::Tensor lambda = CompatS4Eigenvalues(system.lambda[channel], system.p[channel].squeeze(-1),
                                                system.dt[channel].item<double>());
  const at::Tensor re = at::real(lambda), im = at::imag(lambda);
  const at::Tensor log_lambda =
      at::complex(at::log(at::sqrt(re * re + im * im).to(at::kDouble)), at::atan2(im, re).to(at::kDouble));
  Transition transition;
  transition.kind = Diagonal{log_lambda.view({1, 1, 1, -1}), Discretization::kExp};
  transition.constant = true;
  transition.noise_floor = RoundingNoise(at::kFloat);
  return call.Report(kS4Mixer, UnitKind::kLayer, std::move(transition));
}

absl::StatusOr<at::Tensor> S4::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  at::Tensor kernel = State(call, "kernel");
  if (!kernel.defined()) {
    const DplrSystem system = System(call);
    if (call.WantsConstant(kS4Mixer)) EIGSVC_RETURN_IF_ERROR(Report(call, system));
    kernel = State(call, "kernel") = DplrKernel(system, spec_.length).to(type);
  }
  // The state a chunk of time starts from is not small for a matrix that is not diagonal; the inputs so far
  // are exact, and as large as what the layer was given.
  at::Tensor& past = State(call, "inputs");
  const at::Tensor u = x.to(type), all = past.defined() ? at::cat({past, u}, 1) : u;
  past = all;
  const at::Tensor skip = Weight(call, "D").to(type);
  std::vector<at::Tensor> outputs;
  for (int64_t m = 0; m < kernel.size(0); ++m) {
    outputs.push_back(CausalFftConvolve(all, kernel[m], u.size(1)) + u * skip[m]);
  }
  return (outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1)).to(x.scalar_type());
}

std::vector<MixerDescription> S4::Mixers() const {
  return {{std::string(kS4Mixer), UnitKind::kChannel, spec_.storage.width, states(), 1, /*constant=*/true,
           TransitionForm::kDiagonalPlusLowRank}};
}

double S4::ExtraOperations() const {
  return 300 * static_cast<double>(spec_.storage.width) * static_cast<double>(10 + 2 * spec_.storage.outputs);
}

}  // namespace eigsvc
