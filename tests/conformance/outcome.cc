#include "tests/conformance/outcome.h"

#include <utility>
#include <vector>

#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "tests/testing/recording_tap.h"

namespace eigsvc::testing {
namespace {

std::string Site(int layer, const std::string& mixer) { return absl::StrCat("layers.", layer, ".", mixer); }

// Joins what the tap saw of each site in rising time.
absl::Status Join(const RecordingTap& tap, Outcome& outcome) {
  std::map<std::string, std::pair<std::vector<at::Tensor>, std::vector<at::Tensor>>> parts;
  std::map<std::string, int64_t> next_step;
  for (const auto& [layer, seen] : tap.seen) {
    for (const RecordingTap::Seen& report : seen) {
      const std::string site = Site(layer, report.mixer);
      EIGSVC_ASSIGN_OR_RETURN(const Eigenvalues found, ComputeEigenvalues(report.transition));
      const at::Tensor log_magnitude = found.log_magnitude.to(at::kCPU, at::kDouble);
      auto& [magnitudes, phases] = parts[site];
      magnitudes.push_back(log_magnitude);
      phases.push_back(found.phase.defined() ? found.phase.to(at::kCPU, at::kDouble)
                                             : at::zeros_like(log_magnitude));
      Outcome::Reported& reported = outcome.sites[site];
      reported.layout = found.layout;
      if (report.transition.constant) {
        if (!at::equal(magnitudes.front(), log_magnitude) || !at::equal(phases.front(), phases.back())) {
          return absl::InternalError(absl::StrCat(site, " is said to be constant and changes"));
        }
        magnitudes.resize(1);
        phases.resize(1);
        continue;
      }
      const int64_t first = report.transition.first_step;
      if (next_step.count(site) > 0 && next_step[site] != first) {
        return absl::InternalError(
            absl::StrCat(site, " is reported from step ", first, " after step ", next_step[site] - 1));
      }
      next_step[site] = first + log_magnitude.size(1);
    }
  }
  for (auto& [site, reported] : outcome.sites) {
    reported.log_magnitude = at::cat(parts[site].first, 1);
    reported.phase = at::cat(parts[site].second, 1);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Outcome> Run(const SequenceModel& model, const at::Tensor& inputs,
                            const std::set<int64_t>& cuts, const Convention& convention,
                            const std::vector<at::Tensor>& layer_inputs) {
  const ModelDescription& description = model.description();
  EIGSVC_ASSIGN_OR_RETURN(const Convention resolved,
                          ResolveConvention(convention, description.conventions, description.family));
  std::set<int64_t> ends = cuts;
  ends.insert(inputs.size(1));
  Outcome outcome;
  RecordingTap tap;
  std::vector<LayerState> states(model.weights().layers.size());
  for (LayerState& state : states) state.length = inputs.size(1);
  std::vector<at::Tensor> parts;  // of what the head is given
  std::vector<std::vector<at::Tensor>> activations(states.size() + 1);
  int64_t begin = 0;
  for (const int64_t end : ends) {
    EIGSVC_ASSIGN_OR_RETURN(at::Tensor x,
                            model.Embed(model.weights(), inputs.narrow(1, begin, end - begin), begin));
    const auto pass_on = [&](size_t layer) {
      activations[layer].push_back(x);
      if (layer_inputs.empty()) return;
      x = layer_inputs[layer].narrow(1, begin, end - begin).to(x.device(), model.dtype());
    };
    pass_on(0);
    for (size_t i = 0; i < states.size(); ++i) {
      const int layer = static_cast<int>(i);
      EIGSVC_ASSIGN_OR_RETURN(const Weights weights, model.weights().Layer(layer));
      EIGSVC_ASSIGN_OR_RETURN(x, model.Layer(layer, weights, x, &states[i], {&tap, nullptr, resolved}));
      pass_on(i + 1);
    }
    parts.push_back(std::move(x));
    begin = end;
  }
  at::Tensor x = at::cat(parts, 1);
  if (!description.pooling.empty()) {
    const at::Tensor lengths = at::full({x.size(0)}, x.size(1), x.options().dtype(at::kLong));
    EIGSVC_ASSIGN_OR_RETURN(x, model.Pool(model.weights(), x, lengths));
  }
  EIGSVC_ASSIGN_OR_RETURN(outcome.logits, model.Head(model.weights(), x));
  outcome.logits = outcome.logits.to(at::kCPU);
  for (const std::vector<at::Tensor>& of_layer : activations) {
    outcome.activations.push_back(at::cat(of_layer, 1).to(at::kCPU));
  }
  EIGSVC_RETURN_IF_ERROR(Join(tap, outcome));
  return outcome;
}

}  // namespace eigsvc::testing
