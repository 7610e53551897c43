// A trained RWKV-7 (data/checkpoints/rwkv7_reverse), which writes numbers backwards: every digit right, and
// the logits of its golden.json, computed with a float64 NumPy reference.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/argmax.h"
#include "ATen/ops/tensor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/base/random.h"
#include "models/transition/eigenvalues.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using testing::RecordingTap;
using testing::StatusIs;

class Rwkv7ReverseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EIGSVC_REQUIRE_SHARED();
    folder_ = testing::SharedPath("data/checkpoints/rwkv7_reverse/");
  }

  absl::StatusOr<std::shared_ptr<const SequenceModel>> Load(const std::string& name, c10::ScalarType dtype) {
    const absl::StatusOr<Archive> archive = Archive::Open(folder_ + name);
    if (!archive.ok()) return archive.status();
    LoadOptions options;
    options.dtype = dtype;
    return LoadModel(*archive, {}, options);
  }

  at::NoGradGuard no_grad_;
  std::string folder_;
};

TEST_F(Rwkv7ReverseTest, LogitsAreTheGoldenOnes) {
  const auto golden = nlohmann::json::parse(std::ifstream(folder_ + "golden.json"));
  for (const char* name : {"rwkv7_reverse_L2.safetensors", "260123_reverse_L2_only_rwkv7.pth"}) {
    for (const auto& [dtype, tolerance] : {std::pair(c10::kDouble, 2e-6), std::pair(c10::kFloat, 2.5e-4)}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, Load(name, dtype));
      EXPECT_EQ(model->description().family, "rwkv7");
      EXPECT_EQ(model->description().layout, "rwkv-lm-demo");
      ASSERT_GE(golden["examples"].size(), 5u);
      for (const auto& example : golden["examples"]) {
        const auto ids = example["ids"].get<std::vector<int64_t>>();
        EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits,
                                    model->Forward(model->weights(), at::tensor(ids).unsqueeze(0)));
        const auto& rows = example["logits_first3_and_last"];
        // Float32 is within 1e-5 of the largest logit, 25. The mark that ends a number is predicted, not
        // read.
        const int64_t positions[] = {0, 1, 2, static_cast<int64_t>(ids.size()) - 2};
        for (int i = 0; i < 4; ++i) {
          for (int64_t v = 0; v < 12; ++v) {
            EXPECT_NEAR(logits[0][positions[i]][v].item<double>(), rows[i][v].get<double>(), tolerance);
          }
        }
      }
    }
  }
}

// The digits of 58 numbers of 1 to 58 digits, 1160 beside the marks that end them: all right.
TEST_F(Rwkv7ReverseTest, WritesEveryDigit) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, Load("rwkv7_reverse_L2.safetensors", c10::kFloat));
  constexpr int64_t kComma = 10, kEnd = 11;
  Random random({2026});
  int64_t right = 0, all = 0;
  const auto run = [&](int64_t digits) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < digits; ++i) ids.push_back(static_cast<int64_t>(random.Below(10)));
    ids.push_back(kComma);
    for (int64_t i = digits - 1; i >= 0; --i) ids.push_back(ids[i]);
    ids.push_back(kEnd);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits,
                                model->Forward(model->weights(), at::tensor(ids).unsqueeze(0)));
    const at::Tensor guess = logits[0].argmax(-1);
    for (int64_t i = digits; i <= 2 * digits; ++i) {
      all += i < 2 * digits;
      const bool same = guess[i].item<int64_t>() == ids[i + 1];
      EXPECT_TRUE(same) << "position " << i << " of " << digits << " digits";
      right += same && i < 2 * digits;
    }
  };
  for (int64_t digits = 1; all + digits <= 1160; digits = digits % 60 + 1) run(digits);
  if (all < 1160) run(1160 - all);
  EXPECT_EQ(all, 1160);
  EXPECT_EQ(right, 1160);
}

TEST_F(Rwkv7ReverseTest, EigenvaluesLieWhereTheoryPutsThem) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, Load("rwkv7_reverse_L2.safetensors", c10::kDouble));
  const std::vector<int64_t> ids = {1, 0, 8, 9, 0, 7, 10, 7, 0, 9, 8, 0, 1, 11};
  RecordingTap tap;
  EIGSVC_ASSERT_OK(model->Forward(model->weights(), at::tensor(ids).unsqueeze(0), {&tap}));
  ASSERT_EQ(tap.seen.size(), 2u);
  for (const auto& [layer, seen] : tap.seen) {
    const auto& kind = std::get<DiagonalPlusLowRank>(seen.at(0).transition.kind);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues eigenvalues, ComputeEigenvalues(seen.at(0).transition));
    EXPECT_EQ(eigenvalues.log_magnitude.sizes().vec(), (std::vector<int64_t>{1, 14, 2, 16}));
    EXPECT_GT(kind.d.min().item<double>(), std::exp(-std::exp(-0.5)));
    EXPECT_LE(kind.d.max().item<double>(), 1);
    EXPECT_LE(eigenvalues.log_magnitude.max().item<double>(), 1e-14);
  }
}

TEST_F(Rwkv7ReverseTest, ALiveRosaBranchIsRefused) {
  EXPECT_THAT(Load("260123_reverse_L2.pth", c10::kFloat),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("ROSA")));
}

}  // namespace
}  // namespace eigsvc
