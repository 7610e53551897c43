#include "tests/conformance/compare.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/polar.h"
#include "ATen/ops/remainder.h"
#include "ATen/ops/repeat_interleave.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/archive/archive.h"
#include "models/archive/detect.h"
#include "models/base/status_macros.h"
#include "models/tensor/device.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"
#include "models/zoo/registry.h"
#include "tests/conformance/outcome.h"

namespace eigsvc::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPi = 3.14159265358979323846;
// Beyond it a general solver's eigenvalues say too little to be compared with.
constexpr double kWorstCondition = 1e6;

// ARCHITECTURE.md section 4, for a model in `dtype` against an oracle that ran in at least that, but for
// softmax in float32: 5e-6·max(1, |LSE|) is wider than its max(5e-6, 4 ulp(max|score|)), which holds on the
// same q and k, while here those are the model's own, rounded. The strict one is held in
// tests/zoo/stories260k_test.cc and, of the log-sum-exp itself, in tests/tensor/attention_lse_test.cc.
struct Tolerances {
  double logits;       // and activations, relative to the largest
  double closed;       // of log λ and arg λ, times max(1, |log λ|)
  double softmax;      // of log λ, times max(1, the largest log-sum-exp) in float32
  double solver;       // of |Δλ|, times |λ|, beside the next
  double perturbed;    // of |Δλ|, times the eigenvectors' condition and the matrix's norm
  double eigenvalues;  // replaces closed, softmax and solver where the case states one; else 0
};

Tolerances TolerancesOf(at::ScalarType dtype) {
  if (dtype == at::kDouble) return {1e-11, 1e-12, 1e-9, 1e-10, 20 * 0x1p-52, 0};
  return {1e-4, 1e-5, 5e-6, 1e-5, 20 * 0x1p-23, 0};
}

struct Case {
  std::string directory, checkpoint;
  Settings settings;   // of case.json
  Settings overrides;  // what a user passes with --config
  Convention convention;
  std::unique_ptr<Archive> expected;

  bool Has(const std::string& key) const { return expected->tensors().contains(key); }
  absl::StatusOr<at::Tensor> Tensor(const std::string& key) const {
    const auto found = expected->tensors().find(key);
    if (found == expected->tensors().end()) {
      return absl::NotFoundError(absl::StrCat("expected.safetensors lacks ", key));
    }
    return TensorFromArchive(found->second);
  }
};

std::string Shape(const at::Tensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.sizes(), ","), "]");
}

// An infinity for NaN, so that no comparison lets it through.
double Largest(const at::Tensor& errors) {
  if (errors.numel() == 0) return 0;
  const double largest = errors.max().item<double>();
  return std::isnan(largest) ? kInfinity : largest;
}

// As a share of what is allowed.
absl::StatusOr<double> CompareOrdered(const Case& files, const std::string& site,
                                      const Outcome::Reported& found, at::ScalarType dtype,
                                      const Tolerances& tolerances) {
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor expected, files.Tensor(site + ".log_magnitude"));
  if (expected.dim() == 2) expected = expected.unsqueeze(0).unsqueeze(0);
  if (expected.sizes() != found.log_magnitude.sizes()) {
    return absl::FailedPreconditionError(absl::StrCat(site, " has eigenvalues of shape ",
                                                      Shape(found.log_magnitude), " where ", Shape(expected),
                                                      " is expected"));
  }
  const at::Tensor zeros = expected == -kInfinity;
  at::Tensor allowed = expected.abs().clamp_min(1) * tolerances.closed;
  if (files.Has(site + ".subtracted")) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor subtracted, files.Tensor(site + ".subtracted"));
    const double scale = dtype == at::kDouble ? 1 : std::max(1.0, subtracted.item<double>());
    allowed = at::full_like(expected, tolerances.softmax * scale);
  }
  if (tolerances.eigenvalues > 0) allowed = expected.abs().clamp_min(1) * tolerances.eigenvalues;
  // Two zeros have no difference; a zero and another number differ by an infinity.
  const at::Tensor both_zero = zeros.logical_and(found.log_magnitude == -kInfinity);
  const at::Tensor error = (found.log_magnitude - expected).abs().masked_fill(both_zero, 0);
  double share = Largest(error / allowed.masked_fill(zeros, 1));

  at::Tensor phase = at::zeros_like(expected);
  if (files.Has(site + ".phase")) {
    EIGSVC_ASSIGN_OR_RETURN(phase, files.Tensor(site + ".phase"));
    phase = phase.view_as(expected);
  }
  const at::Tensor turned = at::remainder(found.phase - phase + kPi, 2 * kPi) - kPi;
  const double phase_tolerance = tolerances.eigenvalues > 0 ? tolerances.eigenvalues : tolerances.closed;
  share = std::max(share, Largest(turned.abs().masked_fill(zeros, 0) / phase_tolerance));
  return share;
}

// Every eigenvalue as often as it occurs, as complex numbers [sites,N].
at::Tensor Expanded(const Outcome::Reported& found) {
  at::Tensor values = at::polar(found.log_magnitude.exp(), found.phase).flatten(0, 2);
  values = at::repeat_interleave(values, at::tensor(found.layout.multiplicities), -1);
  if (found.layout.conjugate_pairs) values = at::cat({values, values.conj().resolve_conj()}, -1);
  return values;
}

absl::StatusOr<double> CompareMultisets(const Case& files, const std::string& site,
                                        const Outcome::Reported& found, const Tolerances& tolerances) {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor real, files.Tensor(site + ".eigenvalues.re"));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor imaginary, files.Tensor(site + ".eigenvalues.im"));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor norm, files.Tensor(site + ".norm"));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor condition, files.Tensor(site + ".condition"));
  const at::Tensor expected = at::complex(real, imaginary).flatten(0, -2);
  if (std::count(found.layout.multiplicities.begin(), found.layout.multiplicities.end(), 0) > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(site, " has eigenvalues of infinite multiplicity, which no solver gives"));
  }
  const at::Tensor ours = Expanded(found);
  if (ours.sizes() != expected.sizes()) {
    return absl::FailedPreconditionError(absl::StrCat(site, " has eigenvalues of expanded shape ",
                                                      Shape(ours), " where ", Shape(expected),
                                                      " is expected"));
  }
  const double relative = tolerances.eigenvalues > 0 ? tolerances.eigenvalues : tolerances.solver;
  const at::Tensor conditioned =
      (condition.clamp_max(kWorstCondition) * norm).flatten().unsqueeze(-1) * tolerances.perturbed;
  // Of a transition that is all zeros, nothing but zeros is right.
  const at::Tensor tolerance =
      (expected.abs() * relative + conditioned).clamp_min(std::numeric_limits<double>::min());
  double share = 0;
  for (int64_t i = 0; i < expected.size(0); ++i) {
    share = std::max(share, MatchMultisets(ours[i], expected[i], tolerance[i]));
  }
  return share;
}

class Comparison {
 public:
  Comparison(const Case& files, at::ScalarType dtype, c10::Device device, CaseResult& result)
      : files_(files), dtype_(dtype), device_(device), tolerances_(TolerancesOf(dtype)), result_(result) {}

  absl::Status Check() {
    EIGSVC_RETURN_IF_ERROR(ReadTolerances());
    EIGSVC_ASSIGN_OR_RETURN(const Archive archive, Archive::Open(files_.directory + "/" + files_.checkpoint));
    EIGSVC_ASSIGN_OR_RETURN(const Detection detection, Detect(archive, files_.overrides));
    if (detection.family != result_.family || detection.layout != result_.layout) {
      Fail(absl::StrCat("is detected as ", detection.family, " (", detection.layout, ")"));
    }
    LoadOptions options;
    options.dtype = dtype_;
    options.device = device_;
    EIGSVC_ASSIGN_OR_RETURN(const auto model, LoadModel(archive, files_.overrides, options));
    EIGSVC_ASSIGN_OR_RETURN(at::Tensor inputs, files_.Tensor(files_.Has("inputs") ? "inputs" : "tokens"));
    inputs = inputs.to(device_, inputs.scalar_type());
    EIGSVC_RETURN_IF_ERROR(CheckRun(*model, inputs, {}, ""));
    EIGSVC_RETURN_IF_ERROR(CheckStreamed(options, inputs));
    const int64_t steps = inputs.size(1);
    std::set<int64_t> cuts = {1, 3, steps / 2, steps - 1};
    while (!cuts.empty() && *cuts.begin() < 1) cuts.erase(cuts.begin());
    while (!cuts.empty() && *cuts.rbegin() >= steps) cuts.erase(*cuts.rbegin());
    return CheckRun(*model, inputs, cuts, " in chunks of time");
  }

 private:
  void Fail(const std::string& what) {
    result_.failures.push_back(absl::StrCat(DtypeName(dtype_), ": ", what));
  }

  // Layers that are read from the checkpoint one at a time give the same bits as those read all at once; a
  // mapped file's may differ in the last one, for matrix products depend on where a weight lies in memory.
  absl::Status CheckStreamed(LoadOptions options, const at::Tensor& inputs) {
    EIGSVC_ASSIGN_OR_RETURN(const Archive archive,
                            Archive::Open(files_.directory + "/" + files_.checkpoint, {.on_demand = true}));
    at::Tensor whole;
    for (const Residency residency : {Residency::kAll, Residency::kLayer}) {
      options.residency = residency;
      EIGSVC_ASSIGN_OR_RETURN(const auto model, LoadModel(archive, files_.overrides, options));
      EIGSVC_ASSIGN_OR_RETURN(const Outcome outcome, Run(*model, inputs, {}, files_.convention));
      if (residency == Residency::kAll) whole = outcome.logits;
      if (!at::equal(outcome.logits, whole)) Fail("logits change when layers are read one at a time");
    }
    return absl::OkStatus();
  }

  absl::Status ReadTolerances() {
    const std::string dtype = DtypeName(dtype_);
    for (const auto& [name, place] :
         {std::pair("logits", &tolerances_.logits), std::pair("eigenvalues", &tolerances_.eigenvalues)}) {
      const std::string key = absl::StrCat("tolerances.", name);
      if (!files_.settings.Has(absl::StrCat(key, ".", dtype))) continue;
      EIGSVC_RETURN_IF_ERROR(files_.settings.Text(key + ".reason").status());
      EIGSVC_ASSIGN_OR_RETURN(*place, files_.settings.Real(absl::StrCat(key, ".", dtype)));
    }
    return absl::OkStatus();
  }

  // Where a case gives the layers' inputs, float32 is judged by what the embedding, every layer and the head
  // make of the oracle's own input of them: README.md says why.
  absl::Status CheckRun(const SequenceModel& model, const at::Tensor& inputs, const std::set<int64_t>& cuts,
                        const std::string& how) {
    EIGSVC_ASSIGN_OR_RETURN(const Outcome outcome, Run(model, inputs, cuts, files_.convention));
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor logits, files_.Tensor("logits"));
    EIGSVC_ASSIGN_OR_RETURN(const double error, ErrorOf(outcome.logits, logits));
    double& largest = dtype_ == at::kDouble ? result_.logits_float64 : result_.logits_float32;
    largest = std::max(largest, error);
    const bool by_layer = dtype_ == at::kFloat && files_.Has(LayerInput(0));
    Judge(error, tolerances_.logits, absl::StrCat("a logit", how));
    if (!by_layer) return CompareSites(outcome, how);

    std::vector<at::Tensor> given;
    for (size_t layer = 0; layer < outcome.activations.size(); ++layer) {
      EIGSVC_ASSIGN_OR_RETURN(given.emplace_back(), files_.Tensor(LayerInput(layer)));
    }
    EIGSVC_ASSIGN_OR_RETURN(const Outcome layers, Run(model, inputs, cuts, files_.convention, given));
    for (size_t layer = 0; layer < given.size(); ++layer) {
      EIGSVC_ASSIGN_OR_RETURN(const double off, ErrorOf(layers.activations[layer], given[layer]));
      Judge(off, tolerances_.logits,
            layer == 0 ? absl::StrCat("the embedding", how)
                       : absl::StrCat("the output of layer ", layer - 1, how));
    }
    EIGSVC_ASSIGN_OR_RETURN(const double off, ErrorOf(layers.logits, logits));
    Judge(off, tolerances_.logits, absl::StrCat("a logit of the head alone", how));
    return CompareSites(layers, how);
  }

  // x of layer `layer`; one more than there are layers: what the last one gives.
  static std::string LayerInput(size_t layer) { return absl::StrCat("layers.", layer, ".input"); }

  // Relative to the largest.
  static absl::StatusOr<double> ErrorOf(const at::Tensor& found, const at::Tensor& expected) {
    if (expected.sizes() != found.sizes()) {
      return absl::FailedPreconditionError(absl::StrCat("activations or logits have shape ", Shape(found),
                                                        " where ", Shape(expected), " is expected"));
    }
    const at::Tensor exact = expected.to(at::kDouble);
    return Largest((found.to(at::kDouble) - exact).abs()) / exact.abs().max().item<double>();
  }

  void Judge(double error, double allowed, const std::string& what) {
    if (error <= allowed) return;
    Fail(absl::StrCat(what, " is off by ", error, " of the largest; ", allowed, " is allowed"));
  }

  absl::Status CompareSites(const Outcome& outcome, const std::string& how) {
    for (const auto& [site, found] : outcome.sites) EIGSVC_RETURN_IF_ERROR(CompareSite(site, found, how));
    for (const auto& [key, tensor] : files_.expected->tensors()) {
      for (const std::string suffix : {".log_magnitude", ".eigenvalues.re"}) {
        if (!absl::EndsWith(key, suffix)) continue;
        const std::string site = key.substr(0, key.size() - suffix.size());
        if (outcome.sites.count(site) == 0) Fail(absl::StrCat(site, " is not reported", how));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CompareSite(const std::string& site, const Outcome::Reported& found, const std::string& how) {
    const bool ordered = files_.Has(site + ".log_magnitude"), solved = files_.Has(site + ".eigenvalues.re");
    if (!ordered && !solved) Fail(absl::StrCat(site, " is reported", how, " and the case has nothing of it"));
    const auto judge = [&](double share, absl::string_view what) {
      result_.eigenvalues = std::max(result_.eigenvalues, share);
      if (!(share <= 1)) {
        Fail(absl::StrCat(what, " of ", site, how, " are off by ", share, " times what is allowed"));
      }
    };
    if (ordered) {
      EIGSVC_ASSIGN_OR_RETURN(const double share, CompareOrdered(files_, site, found, dtype_, tolerances_));
      judge(share, "eigenvalues");
    }
    if (solved) {
      EIGSVC_ASSIGN_OR_RETURN(const double share, CompareMultisets(files_, site, found, tolerances_));
      judge(share, "eigenvalues by a general solver");
    }
    return absl::OkStatus();
  }

  const Case& files_;
  const at::ScalarType dtype_;
  const c10::Device device_;
  Tolerances tolerances_;
  CaseResult& result_;
};

absl::Status Check(const std::string& directory, c10::Device device, CaseResult& result) {
  Case files;
  files.directory = directory;
  std::ifstream file(directory + "/case.json");
  const std::string json{std::istreambuf_iterator<char>(file), {}};
  EIGSVC_ASSIGN_OR_RETURN(files.settings, Settings::Parse(json, "case.json"));
  EIGSVC_ASSIGN_OR_RETURN(result.name, files.settings.Text("name"));
  EIGSVC_ASSIGN_OR_RETURN(result.family, files.settings.Text("family"));
  EIGSVC_ASSIGN_OR_RETURN(result.layout, files.settings.Text("layout"));
  EIGSVC_ASSIGN_OR_RETURN(result.reference, files.settings.Text("reference"));
  EIGSVC_ASSIGN_OR_RETURN(files.checkpoint, files.settings.Text("checkpoint"));
  EIGSVC_ASSIGN_OR_RETURN(files.overrides, files.settings.Child("settings"));
  const bool compat = files.settings.Has("departures");
  std::vector<std::string> departures;
  if (compat) {
    EIGSVC_ASSIGN_OR_RETURN(departures, files.settings.Texts("departures"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string gauge, files.settings.TextOr("gauge", ""));
  EIGSVC_ASSIGN_OR_RETURN(const std::string rotation, files.settings.TextOr("rotation", ""));
  EIGSVC_ASSIGN_OR_RETURN(files.convention,
                          ParseConvention(compat ? "PAPER_COMPAT" : "EXACT", departures, gauge, rotation));
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<std::string> dtypes, files.settings.Texts("dtypes"));
  EIGSVC_ASSIGN_OR_RETURN(Archive expected, Archive::Open(directory + "/expected.safetensors"));
  files.expected = std::make_unique<Archive>(std::move(expected));
  for (const std::string& name : dtypes) {
    EIGSVC_ASSIGN_OR_RETURN(const at::ScalarType dtype, ParseDtype(name));
    if (!device.is_cpu() && dtype == at::kDouble) continue;
    EIGSVC_RETURN_IF_ERROR(
        CallTorchStatus("case", [&] { return Comparison(files, dtype, device, result).Check(); }));
  }
  return absl::OkStatus();
}

}  // namespace

CaseResult CheckCase(const std::string& directory, c10::Device device) {
  const at::NoGradGuard no_grad;
  CaseResult result;
  result.name = directory;
  const absl::Status status = Check(directory, device, result);
  if (!status.ok()) result.failures.push_back(std::string(status.message()));
  return result;
}

}  // namespace eigsvc::testing
