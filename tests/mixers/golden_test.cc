// The published golden vectors (shared/golden/eigenvalues.json, computed in pure Python) through the mixers
// themselves: weights are chosen so that step t of a one-hot sequence projects to the golden q, k, a or Δ.
#include <cmath>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/full.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/mixers/lru.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/normalized_attention.h"
#include "models/mixers/residual_blocks.h"
#include "models/mixers/s4.h"
#include "models/mixers/s4d.h"
#include "models/transition/eigenvalues.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using Kind = NormalizedAttentionSpec::Kind;
using testing::RecordingTap;

class GoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EIGSVC_REQUIRE_SHARED();
    std::ifstream(testing::SharedPath("golden/eigenvalues.json")) >> golden_;
  }

  static at::Tensor Zeros(at::IntArrayRef shape) { return at::zeros(shape, at::kDouble); }
  // One number of a tensor of one.
  static at::Tensor One(at::IntArrayRef shape, double value) { return at::full(shape, value, at::kDouble); }

  // [T,D] in the golden file's order of steps.
  at::Tensor Table(const char* name, const char* entry = nullptr) const {
    const nlohmann::json& rows = entry != nullptr ? golden_[entry][name] : golden_[name];
    const auto steps = static_cast<int64_t>(rows.size());
    const int64_t width = rows[0].is_array() ? static_cast<int64_t>(rows[0].size()) : 1;
    at::Tensor table = Zeros({steps, width});
    auto values = table.accessor<double, 2>();
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t d = 0; d < width; ++d) {
        values[t][d] = rows[0].is_array() ? rows[t][d].get<double>() : rows[t].get<double>();
      }
    }
    return table;
  }

  // Eigenvalues of the only transition that `mixer` reports over x.
  static Eigenvalues Reported(const Module& mixer, const Weights& weights, const at::Tensor& x,
                              const Departures& departures = {}) {
    const at::NoGradGuard no_grad;
    RecordingTap tap;
    LayerState state;
    state.length = x.size(1);
    LayerContext context{&tap};
    context.convention.departures = departures;
    at::Tensor beside;
    EXPECT_TRUE(mixer.Run({0, weights, state, context, beside}, x).ok());
    EXPECT_EQ(tap.seen[0].size(), 1u);
    return *ComputeEigenvalues(tap.seen[0].at(0).transition);
  }

  void ExpectSteps(const Eigenvalues& found, const char* name, bool logarithms) const {
    SCOPED_TRACE(name);
    ExpectSteps(found, golden_[name], logarithms);
  }
  static void ExpectSteps(const Eigenvalues& found, const nlohmann::json& expected, bool logarithms) {
    ASSERT_EQ(found.log_magnitude.numel(), static_cast<int64_t>(expected.size()));
    EXPECT_FALSE(found.phase.defined());
    const at::Tensor flat = found.log_magnitude.flatten();
    for (size_t i = 0; i < expected.size(); ++i) {
      const double log_lambda = flat[static_cast<int64_t>(i)].item<double>();
      const double exact = expected[i].get<double>();
      EXPECT_NEAR(logarithms ? log_lambda : std::exp(log_lambda), exact,
                  1e-12 * std::max(1.0, std::abs(exact)))
          << i;
    }
  }

  static void ExpectComplex(const Eigenvalues& found, double re, double im) {
    const double magnitude = std::exp(found.log_magnitude.item<double>()), phase = found.phase.item<double>();
    EXPECT_NEAR(magnitude * std::cos(phase), re, 1e-12);
    EXPECT_NEAR(magnitude * std::sin(phase), im, 1e-12);
  }

  nlohmann::json golden_;
};

// The others are what goes in, or intermediate: of normalisers in tests/transition, of counting in
// tests/spectrum.
TEST_F(GoldenTest, NoEntryIsLeftOut) {
  const std::set<std::string> inputs = {"q", "k", "head_dim", "norm_preactivation_a=n+offset"};
  const std::set<std::string> elsewhere = {"softmax_lse", "linear_elu1_eta",
                                           "uniform_attention_T1024_exact_lambda_in_closed_bins_percent"};
  const std::set<std::string> here = {"softmax_log_lambda",
                                      "softmax_lambda",
                                      "softmax_lambda_compat_released_code",
                                      "linear_elu1_lambda",
                                      "norm_expf_log_lambda_exp",
                                      "norm_expf_log_lambda_softplus",
                                      "norm_expf_log_lambda_sigmoid",
                                      "norm_expf_log_lambda_elu",
                                      "norm_dsf2024_log_lambda_exp",
                                      "norm_dsf2024_log_lambda_softplus",
                                      "norm_dsf2024_log_lambda_sigmoid",
                                      "mamba2",
                                      "mamba2_pseudoLTI",
                                      "lru",
                                      "s4d",
                                      "s4_dplr_N2"};
  for (const auto& [name, entry] : golden_.items()) {
    EXPECT_EQ(inputs.count(name) + elsewhere.count(name) + here.count(name), 1u) << name;
  }
  EXPECT_EQ(golden_.size(), inputs.size() + elsewhere.size() + here.size());
}

TEST_F(GoldenTest, SoftmaxAndLinearAttention) {
  const at::Tensor q = Table("q"), k = Table("k");
  const int64_t steps = q.size(0);
  Weights weights;
  at::Tensor projection = Zeros({4 + steps, steps});  // [q | k | v]
  projection.narrow(0, 0, 2).copy_(q.t());
  projection.narrow(0, 2, 2).copy_(k.t());
  weights.Set("Wqkv.weight", projection);
  weights.Set("Wqkv.bias", Zeros({4 + steps}));
  weights.Set("out_proj.weight", Zeros({steps, steps}));
  weights.Set("out_proj.bias", Zeros({steps}));
  const at::Tensor x = at::eye(steps, at::kDouble).unsqueeze(0);
  NormalizedAttentionSpec spec;
  spec.width = steps;
  spec.heads = 1;
  spec.key_rows = 2;
  const Eigenvalues softmax = Reported(NormalizedAttention("", spec), weights, x);
  ExpectSteps(softmax, "softmax_log_lambda", true);
  ExpectSteps(softmax, "softmax_lambda", false);
  spec.kind = Kind::kLinear;
  ExpectSteps(Reported(NormalizedAttention("", spec), weights, x), "linear_elu1_lambda", false);
}

// Of the block, whose input is the identity: E2 leaves its norm out.
TEST_F(GoldenTest, SoftmaxAttentionOfTheReleasedAnalysis) {
  const at::Tensor q = Table("q"), k = Table("k");
  const int64_t steps = q.size(0);
  Weights weights;
  at::Tensor projection = Zeros({4 + steps, steps});
  projection.narrow(0, 0, 2).copy_(q.t());
  projection.narrow(0, 2, 2).copy_(k.t());
  weights.Set("attention.Wqkv.weight", projection);
  weights.Set("attention.Wqkv.bias", Zeros({4 + steps}));
  weights.Set("attention.out_proj.weight", Zeros({steps, steps}));
  weights.Set("attention.out_proj.bias", Zeros({steps}));
  weights.Set("norm.weight", One({steps}, 3));
  weights.Set("norm.bias", One({steps}, 2));
  NormalizedAttentionSpec spec;
  spec.width = steps;
  spec.heads = 1;
  spec.key_rows = 2;
  AttentionBlockSpec block;
  block.width = steps;
  block.norm.kind = NormSpec::Kind::kLayer;
  Departures departures;
  departures.skip_norm = departures.unscaled_scores = departures.masked_as_zero = true;
  ExpectSteps(
      Reported(AttentionBlock(block, std::make_unique<NormalizedAttention>("attention.", spec), nullptr),
               weights, at::eye(steps, at::kDouble).unsqueeze(0), departures),
      "softmax_lambda_compat_released_code", false);
}

TEST_F(GoldenTest, NormAttentionInBothConventions) {
  const at::Tensor a = Table("norm_preactivation_a=n+offset");
  const int64_t steps = a.size(0);
  const at::Tensor x = at::eye(steps, at::kDouble).unsqueeze(0);
  NormalizedAttentionSpec spec;
  spec.kind = Kind::kNorm;
  spec.width = steps;
  spec.heads = 1;
  spec.key_rows = 2;
  const std::vector<std::pair<NormFunction, std::string>> functions = {{NormFunction::kExp, "exp"},
                                                                       {NormFunction::kSoftplus, "softplus"},
                                                                       {NormFunction::kSigmoid, "sigmoid"},
                                                                       {NormFunction::kElu, "elu"}};
  Weights weights;
  weights.Set("Wqk.weight", One({4, steps}, 0.1));
  weights.Set("Wv.weight", Zeros({steps, steps}));
  for (const char* part : {"Wqk", "Wv", "Wn"}) {
    weights.Set(std::string(part) + ".bias", Zeros({part[1] == 'q' ? 4 : part[1] == 'v' ? steps : 1}));
  }
  // Half of a comes from the offset where there is one: it is added before f.
  at::Tensor fused = Zeros({steps + 5, steps});
  fused.narrow(0, steps + 4, 1).copy_(a.t() - 0.5);
  weights.Set("Wvqkn.weight", fused);
  weights.Set("Wvqkn.bias", Zeros({steps + 5}));
  weights.Set("Wn.weight", a.t().contiguous());
  weights.Set("out_proj.weight", Zeros({steps, steps}));
  weights.Set("out_proj.bias", Zeros({steps}));
  for (const auto& [function, name] : functions) {
    spec.function = function;
    spec.exponential = spec.fused = spec.offset = true;
    weights.Set("offset", One({1}, 0.5));
    ExpectSteps(Reported(NormalizedAttention("", spec), weights, x), ("norm_expf_log_lambda_" + name).c_str(),
                true);
    if (function == NormFunction::kElu) continue;
    spec.exponential = spec.fused = spec.offset = false;
    weights.Set("offset", One({1}, 0));
    ExpectSteps(Reported(NormalizedAttention("", spec), weights, x),
                ("norm_dsf2024_log_lambda_" + name).c_str(), true);
  }
}

// A step of Mamba-2 of width T, whose Δ before softplus is the golden table's in both of its forms.
TEST_F(GoldenTest, Mamba2WithAVaryingAndWithAConstantDecay) {
  const at::Tensor dt = Table("dt_pre_plus_bias", "mamba2");
  const int64_t steps = dt.size(0);
  Mamba2Spec spec;
  spec.width = spec.head_width = steps;
  spec.heads = 1;
  spec.order = 2;
  spec.taps = 0;
  spec.gate = false;
  Weights weights;
  at::Tensor projection = One({steps + 5, steps}, 0.1);
  projection.narrow(0, steps + 4, 1).copy_(dt.t() - 0.25);
  weights.Set("in_proj.weight", projection);
  weights.Set("dt_bias", One({1}, 0.25));
  weights.Set("D", One({1}, 1));
  weights.Set("out_proj.weight", Zeros({steps, steps}));
  weights.Set("A_log", One({1}, golden_["mamba2"]["A_log"].get<double>()));
  const at::Tensor x = at::eye(steps, at::kDouble).unsqueeze(0);
  ExpectSteps(Reported(Mamba2("", spec), weights, x), golden_["mamba2"]["log_lambda"], true);

  spec.time_invariant = true;
  weights.Set("A", One({1}, golden_["mamba2_pseudoLTI"]["A_param"].get<double>()));
  weights.Set("beta", One({1}, 1));
  const Eigenvalues found = Reported(Mamba2("", spec), weights, x);
  ASSERT_EQ(found.log_magnitude.numel(), 1);
  EXPECT_NEAR(found.log_magnitude.item<double>(), golden_["mamba2_pseudoLTI"]["log_lambda"].get<double>(),
              1e-12);
}

TEST_F(GoldenTest, Lru) {
  const nlohmann::json& lru = golden_["lru"];
  Weights weights;
  weights.Set("nu_log", One({1}, lru["nu_log"].get<double>()));
  weights.Set("theta_log", One({1}, lru["theta_log"].get<double>()));
  for (const char* name : {"gamma_log", "D"}) weights.Set(name, One({1}, 0));
  for (const char* name : {"B_re", "B_im", "C_re", "C_im"}) weights.Set(name, One({1, 1}, 1));
  LruSpec spec;
  spec.width = spec.order = 1;
  const Eigenvalues found = Reported(Lru("", spec), weights, One({1, 3, 1}, 1));
  ExpectComplex(found, lru["re"].get<double>(), lru["im"].get<double>());
  EXPECT_NEAR(std::exp(found.log_magnitude.item<double>()), lru["abs"].get<double>(), 1e-12);
  EXPECT_NEAR(found.phase.item<double>(), lru["phase_rad_0_2pi"].get<double>(), 1e-12);
}

TEST_F(GoldenTest, S4d) {
  const nlohmann::json& s4d = golden_["s4d"];
  Weights weights;
  weights.Set("D", One({1}, 0));
  weights.Set("kernel.C", One({1, 1, 2}, 1));
  weights.Set("kernel.log_dt", One({1}, std::log(s4d["dt"].get<double>())));
  weights.Set("kernel.log_A_real", One({1, 1}, std::log(-s4d["A"][0].get<double>())));
  weights.Set("kernel.A_imag", One({1, 1}, s4d["A"][1].get<double>()));
  S4dSpec spec;
  spec.minimal = true;
  spec.storage.width = spec.storage.order = 1;
  for (const bool bilinear : {false, true}) {
    spec.bilinear = bilinear;
    const Eigenvalues found = Reported(S4d("", spec), weights, One({1, 3, 1}, 1));
    const nlohmann::json& expected = s4d[bilinear ? "bilinear" : "zoh"];
    ExpectComplex(found, expected[0].get<double>(), expected[1].get<double>());
    EXPECT_TRUE(found.layout.conjugate_pairs);
  }
}

TEST_F(GoldenTest, S4) {
  const nlohmann::json& s4 = golden_["s4_dplr_N2"];
  Weights weights;
  at::Tensor re = Zeros({2, 1}), im = Zeros({2, 1}), p = Zeros({2, 1, 2});
  for (int n = 0; n < 2; ++n) {
    re[n][0] = s4["Lambda"][n][0].get<double>();
    im[n][0] = s4["Lambda"][n][1].get<double>();
    for (int part = 0; part < 2; ++part) p[n][0][part] = s4["P"][n][part].get<double>();
  }
  weights.Set("Lambda_re", re);
  weights.Set("Lambda_im", im);
  weights.Set("P", p);
  for (const char* name : {"B", "C"}) weights.Set(name, One({2, 1, 2}, 1));
  weights.Set("D", One({1, 1}, 0));
  weights.Set("log_step", One({1, 1}, std::log(s4["dt"].get<double>())));
  S4Spec spec;
  spec.all_states = true;
  spec.length = 4;
  spec.storage.width = 1;
  spec.storage.order = 2;
  const Eigenvalues found = Reported(S4("", spec), weights, One({1, 3, 1}, 1));
  ASSERT_EQ(found.log_magnitude.sizes(), at::IntArrayRef({1, 1, 1, 2}));
  // In either order.
  const double first = found.phase.flatten()[0].item<double>();
  for (int n = 0; n < 2; ++n) {
    const nlohmann::json& expected = s4["lambda"][n];
    const int64_t at = (first > 0) == (expected[1].get<double>() > 0) ? 0 : 1;
    const double magnitude = std::exp(found.log_magnitude.flatten()[at].item<double>()),
                 phase = found.phase.flatten()[at].item<double>();
    EXPECT_NEAR(magnitude * std::cos(phase), expected[0].get<double>(), 1e-12);
    EXPECT_NEAR(magnitude * std::sin(phase), expected[1].get<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace eigsvc
