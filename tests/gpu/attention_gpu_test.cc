// log λ of softmax attention as analyses have it, from each fused operator of the device and closer where
// scores are large, at the lengths analyses run, against float64 on the same rounded q and k.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/randn.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "models/tensor/attention_lse.h"
#include "models/tensor/attention_operators.h"
#include "models/tensor/attention_rows.h"
#include "models/transition/softmax.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

const c10::Device kCuda(c10::kCUDA, 0);

struct Exact {
  at::Tensor lse;            // [1,H,T] float64
  double largest_score = 0;  // in size
};

// The definition, in float64 and in blocks of rows.
Exact ExactLse(const at::Tensor& q, const at::Tensor& k, double scale) {
  constexpr int64_t kRows = 1024;
  const int64_t steps = q.size(2);
  const at::Tensor keys = k.to(at::kDouble).transpose(-1, -2),
                   position = at::arange(steps, at::TensorOptions().dtype(at::kLong).device(q.device()));
  Exact exact;
  std::vector<at::Tensor> parts;
  for (int64_t first = 0; first < steps; first += kRows) {
    const int64_t rows = std::min(kRows, steps - first);
    const at::Tensor scores = at::matmul(q.narrow(2, first, rows).to(at::kDouble), keys) * scale;
    const at::Tensor hidden = position.unsqueeze(0) > position.narrow(0, first, rows).unsqueeze(1);
    exact.largest_score =
        std::max(exact.largest_score, scores.masked_fill(hidden, 0).abs().max().item<double>());
    parts.push_back(at::logsumexp(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1));
  }
  exact.lse = at::cat(parts, -1);
  return exact;
}

// λ of step i is ν_{i-1}/ν_i, subtracted in the type there is, as normaliser.cc does.
at::Tensor LogLambda(const at::Tensor& lse) {
  const int64_t steps = lse.size(2);
  return (lse.narrow(2, 0, steps - 1) - lse.narrow(2, 1, steps - 1)).to(at::kDouble);
}

// max(5e-6, 4 ulp) of a score of that size.
double Allowed(double largest_score) {
  const auto score = static_cast<float>(largest_score);
  return std::max(5e-6, 4.0 * (std::nextafter(score, std::numeric_limits<float>::infinity()) - score));
}

// What was reached is recorded in the test's XML (--gtest_output): docs/benchmarks.md has it.
TEST(AttentionGpuTest, LogLambdaIsThatOfFloat64AtTheLengthsOfAnalyses) {
  const at::NoGradGuard no_grad;
  for (const FusedOperator& fused : FusedOperators()) {
    if (fused.device != kCuda.type()) continue;
    for (const c10::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      if (fused.HeadMultiple(type) == 0) continue;
      // Of q: scores up to 6 and up to 40; between them, heads on both sides of what is computed again.
      for (const double size : {1.0, 1.3, 6.0}) {
        double worst = 0, worst_of_allowed = 0, largest_score = 0;
        for (const int64_t steps : {2048, 5000, 8192}) {
          for (const int64_t head_size : {64, 128}) {
            const auto normal = [&](double by) {
              return (at::randn({1, 2, steps, head_size}, at::TensorOptions().device(kCuda)) * by).to(type);
            };
            const at::Tensor q = normal(size), k = normal(1), v = normal(1);
            const double scale = 1 / std::sqrt(static_cast<double>(head_size));
            const AttentionOutput found = CallFused(fused, q, k, v, /*causal=*/true, scale);
            AttentionOptions options;
            options.scale = scale;
            RefineLse(found.lse, q, k, options, BoundScores(q, k, scale));
            const Exact exact = ExactLse(q, k, scale);
            ASSERT_EQ(found.lse.sizes(), exact.lse.sizes());
            const double error = (LogLambda(found.lse) - LogLambda(exact.lse)).abs().max().item<double>();
            const double allowed = Allowed(exact.largest_score);
            EXPECT_LE(error, allowed)
                << fused.name << ", " << c10::toString(type) << ", " << steps << " steps, heads of "
                << head_size << ", scores to " << exact.largest_score;
            worst = std::max(worst, error);
            worst_of_allowed = std::max(worst_of_allowed, error / allowed);
            largest_score = std::max(largest_score, exact.largest_score);
          }
        }
        RecordProperty(
            absl::StrReplaceAll(absl::StrCat(fused.name, "_", c10::toString(type), "_", size), {{" ", "_"}}),
            absl::StrCat("off by ", worst, ", ", worst_of_allowed, " of what is allowed; scores to ",
                         largest_score));
      }
    }
  }
}

// A chunk of queries behind earlier keys, grouped heads, windows that take the operators and the plain form,
// and sinks.
TEST(AttentionGpuTest, LogLambdaOfWindowsAndSinksIsThatOfFloat64) {
  const at::NoGradGuard no_grad;
  constexpr int64_t kHeads = 4, kGroups = 2, kRows = 1001, kKeys = 3003, kHeadSize = 64;
  for (const c10::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto normal = [&](int64_t heads, int64_t steps, double by) {
      return (at::randn({2, steps, heads, kHeadSize}, at::TensorOptions().device(kCuda)) * by)
          .to(type)
          .transpose(1, 2);
    };
    const at::Tensor q = normal(kHeads, kRows, 6), k = normal(kGroups, kKeys, 1),
                     v = normal(kGroups, kKeys, 1);
    for (const int64_t window : {0, 50, 700}) {
      for (const bool sinks : {false, true}) {
        AttentionOptions options;
        options.scale = 0.125;
        options.window = window;
        if (sinks) options.sinks = at::randn({kHeads}, at::TensorOptions().device(kCuda)) * 20;
        EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput found, CausalAttention(q, k, v, options));
        RefineLse(found.lse, q, k, options, BoundScores(q, k, options.scale, 0, options.sinks));
        at::Tensor exact = PlainRows(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), options).lse;
        if (sinks) exact = at::logaddexp(exact, options.sinks.to(at::kDouble).view({1, -1, 1}));
        const double error = (LogLambda(found.lse) - LogLambda(exact)).abs().max().item<double>();
        // The largest score is at least this.
        const double largest = exact.max().item<double>() - std::log(static_cast<double>(kKeys));
        EXPECT_LE(error, Allowed(largest))
            << c10::toString(type) << ", window " << window << (sinks ? ", sinks" : "");
      }
    }
  }
}

// Which of them an analysis at such lengths takes.
TEST(AttentionGpuTest, LongSequencesOfSixteenBitsTakeCudnn) {
  const auto chosen = [](c10::ScalarType type, int64_t steps, int64_t head_size) {
    const at::Tensor x = at::randn({1, 1, steps, head_size}, at::TensorOptions().device(kCuda)).to(type);
    const FusedOperator* fused = ChooseOperator(x, x);
    return std::string(fused == nullptr ? "none" : fused->name);
  };
  EXPECT_EQ(chosen(at::kBFloat16, 2048, 128), "cuda cudnn");
  EXPECT_EQ(chosen(at::kHalf, 8192, 64), "cuda cudnn");
  EXPECT_EQ(chosen(at::kBFloat16, 2047, 128), "cuda flash");
  EXPECT_EQ(chosen(at::kBFloat16, 4096, 256), "cuda flash");
  EXPECT_EQ(chosen(at::kFloat, 8192, 128), "cuda efficient");
}

}  // namespace
}  // namespace eigsvc
