// The multi-precision solver against mpmath's QR algorithm on the explicit matrix; never against LAPACK,
// which does not find these eigenvalues.
#include "models/transition/secular.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"
#include "tests/transition/s4_problems.h"

namespace eigsvc {
namespace {

using testing::Complex;
using ::testing::HasSubstr;
using testing::HippoLegs;
using testing::OracleSolution;
using testing::RandomProblem;
using testing::S4Problem;
using testing::SolveByOracle;
using testing::StatusIs;

// Starting points that know nothing of the answer.
std::vector<Complex> Circle(const S4Problem& problem) {
  std::vector<Complex> points;
  const auto size = static_cast<double>(problem.d.size());
  for (double k = 0; k < size; ++k) points.push_back(std::polar(size, 2 * M_PI * k / size + 0.1));
  return points;
}

// Each of `found` has a partner of its own in `exact`, within `tolerance` of its size; conditions likewise.
void ExpectSolution(const SecularSolution& found, const OracleSolution& exact, double tolerance,
                    double condition_tolerance) {
  ASSERT_EQ(found.values.size(), exact.values.size());
  std::vector<bool> taken(exact.values.size());
  for (size_t k = 0; k < found.values.size(); ++k) {
    size_t nearest = exact.values.size();
    for (size_t i = 0; i < exact.values.size(); ++i) {
      if (!taken[i] &&
          (nearest == exact.values.size() ||
           std::abs(exact.values[i] - found.values[k]) < std::abs(exact.values[nearest] - found.values[k])))
        nearest = i;
    }
    taken[nearest] = true;
    EXPECT_LE(std::abs(exact.values[nearest] - found.values[k]), tolerance * std::abs(exact.values[nearest]))
        << found.values[k];
    EXPECT_NEAR(found.condition[k] / exact.condition[nearest], 1, condition_tolerance) << found.values[k];
    EXPECT_LE(std::abs(exact.values[nearest] - found.values[k]), found.error[k]) << "beyond the stated error";
  }
}

TEST(SecularTest, FindsWhatMpmathFinds) {
  EIGSVC_REQUIRE_ORACLE();
  Random random({7});
  std::vector<S4Problem> problems = {HippoLegs(8, true), HippoLegs(16, true), HippoLegs(24, false)};
  for (const int64_t rank : {1, 2, 3}) problems.push_back(RandomProblem(random, 4 + 3 * rank, rank));
  const std::vector<OracleSolution> exact = SolveByOracle(problems, 80);
  ASSERT_EQ(exact.size(), problems.size());
  for (size_t i = 0; i < problems.size(); ++i) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution found,
                                SolveSecular(problems[i].view(), Circle(problems[i]), nullptr));
    ExpectSolution(found, exact[i], 4e-16, 1e-9);
    EXPECT_EQ(found.bits, 256);
  }
}

// golden/s4_hippo64.json: oracle_secular.py at 120 digits on HippoLegs(64, true), which takes mpmath two
// minutes.
TEST(SecularTest, FindsTheEigenvaluesOfAFullSizeS4) {
  const auto golden =
      nlohmann::json::parse(std::ifstream(testing::SourcePath("tests/transition/golden/s4_hippo64.json")));
  const auto numbers = [](const nlohmann::json& pairs) {
    std::vector<Complex> values;
    for (const auto& z : pairs) values.emplace_back(z[0].get<double>(), z[1].get<double>());
    return values;
  };
  S4Problem problem;
  problem.d = numbers(golden.at("d"));
  problem.u = numbers(golden.at("p"));
  for (const Complex& p : problem.u) problem.v.push_back(std::conj(p));
  const OracleSolution exact{numbers(golden.at("values")), golden.at("condition").get<std::vector<double>>()};
  const absl::Time start = absl::Now();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution found,
                              SolveSecular(problem.view(), Circle(problem), nullptr));
  ExpectSolution(found, exact, 4e-16, 1e-9);
  EXPECT_GT(*std::max_element(found.condition.begin(), found.condition.end()), 1e14);
  std::cout << "N = 64 in " << absl::Now() - start << "\n";
}

TEST(SecularTest, HippoItselfHasTheWholeNumbers) {
  // Rounding d and p to float64 moves eigenvalues by less than 1e-8 where the condition number is 2e4.
  const S4Problem problem = HippoLegs(8, false);
  EIGSVC_ASSERT_OK_AND_ASSIGN(SecularSolution found, SolveSecular(problem.view(), Circle(problem), nullptr));
  std::sort(found.values.begin(), found.values.end(),
            [](const Complex& a, const Complex& b) { return a.real() > b.real(); });
  for (int k = 1; k <= 8; ++k) EXPECT_NEAR(std::abs(found.values[k - 1] + static_cast<double>(k)), 0, 1e-8);
  EXPECT_NEAR(*std::max_element(found.condition.begin(), found.condition.end()), 2.0e4, 0.05e4);
}

TEST(SecularTest, ConditionsInDoubleAreThoseOfMultiPrecisionWhereThatIsEnough) {
  const S4Problem problem = HippoLegs(8, true);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution exact,
                              SolveSecular(problem.view(), Circle(problem), nullptr));
  const SecularSolution found = Conditioned(problem.view(), exact.values);
  EXPECT_EQ(found.bits, 53);
  for (size_t k = 0; k < 8; ++k) {
    EXPECT_NEAR(found.condition[k] / exact.condition[k], 1, 1e-8);
    EXPECT_GT(found.error[k], exact.error[k]);
  }
}

TEST(SecularTest, DegenerateProblemsHaveAnswers) {
  // No coupling at all: the poles themselves, perfectly conditioned.
  S4Problem plain;
  plain.d = {{-1, 2}, {-1, -2}, {-3, 0}};
  plain.u = plain.v = {0, 0, 0};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution found, SolveSecular(plain.view(), {1, 1, 1}, nullptr));
  EXPECT_THAT(found.condition, ::testing::Each(1));
  EXPECT_THAT(found.error, ::testing::Each(::testing::Lt(1e-15)));
  EXPECT_THAT(Conditioned(plain.view(), plain.d).condition, ::testing::Each(1));
  for (const Complex& d : plain.d) {
    EXPECT_TRUE(std::any_of(found.values.begin(), found.values.end(),
                            [&](const Complex& z) { return std::abs(z - d) < 1e-15; }));
  }
  // Estimates on the poles, which the equation has no value at.
  Random random({3});
  const S4Problem problem = RandomProblem(random, 6, 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution a, SolveSecular(problem.view(), problem.d, nullptr));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution b,
                              SolveSecular(problem.view(), Circle(problem), nullptr));
  for (const Complex& z : a.values) {
    EXPECT_TRUE(std::any_of(b.values.begin(), b.values.end(),
                            [&](const Complex& w) { return std::abs(z - w) < 1e-14; }));
  }
  S4Problem broken = problem;
  broken.d[2] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Complex> nan(6, std::numeric_limits<double>::quiet_NaN());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SecularSolution none, SolveSecular(broken.view(), nan, nullptr));
  EXPECT_TRUE(std::isnan(none.values[0].real()));
  EXPECT_TRUE(std::isnan(Conditioned(broken.view(), nan).condition[0]));
}

TEST(SecularTest, TooLargeAProblemIsRefusedAndAStopIsObeyed) {
  Random random({1});
  const S4Problem large = RandomProblem(random, 257, 1);
  EXPECT_THAT(SolveSecular(large.view(), Circle(large), nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("257 dimensions")));
  const S4Problem problem = HippoLegs(192, true);
  StopToken stop;
  absl::Time cancelled;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(200));
    cancelled = absl::Now();
    stop.Cancel();
  });
  const auto result = SolveSecular(problem.view(), Circle(problem), &stop);
  const absl::Time ended = absl::Now();
  canceller.join();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_LT(ended - cancelled, absl::Milliseconds(100));
}

}  // namespace
}  // namespace eigsvc
