// The plain log-sum-exps against their definition, a row at a time.
#include "models/kernels/accurate_lse.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

constexpr float kBefore = -77;

struct Case {
  int64_t batch, heads, groups, rows, keys, size, window;
  bool sinks;
};

// q and k as a model has them, [B,T,heads,D], and answers in rows that are longer than they need be.
struct Given {
  std::vector<float> q, k, sinks, lse;
  std::vector<double> norms;
  LseProblem problem;

  explicit Given(const Case& c) {
    std::mt19937_64 bits(c.rows);
    std::normal_distribution<float> normal;
    const auto draw = [&](int64_t count, float size) {
      std::vector<float> values(count);
      for (float& value : values) value = size * normal(bits);
      return values;
    };
    q = draw(c.batch * c.rows * c.heads * c.size, 5);
    k = draw(c.batch * c.keys * c.groups * c.size, 1);
    sinks = draw(c.heads, 10);
    norms.assign(c.batch * (c.heads + c.groups), 100);
    lse.assign(c.batch * c.heads * (c.rows + 3), kBefore);
    problem.batch = c.batch;
    problem.size = c.size;
    problem.q = {q.data(), c.heads, c.rows, c.rows * c.heads * c.size, c.size, c.heads * c.size};
    problem.k = {k.data(), c.groups, c.keys, c.keys * c.groups * c.size, c.size, c.groups * c.size};
    problem.scale = 0.3;
    problem.window = c.window;
    problem.sinks = c.sinks ? sinks.data() : nullptr;
    problem.squared_norms = norms.data();
    problem.least_bound = 20;  // of 30
    problem.lse = lse.data();
    problem.lse_head_stride = c.rows + 3;
    problem.lse_batch_stride = c.heads * problem.lse_head_stride;
  }
  float Answer(int64_t row, int64_t head, int64_t t) const {
    return lse[row * problem.lse_batch_stride + head * problem.lse_head_stride + t];
  }
};

TEST(AccurateLseTest, ThePlainFormIsTheDefinition) {
  for (const Case& c : {Case{1, 1, 1, 5, 5, 4, 0, false}, Case{2, 4, 2, 19, 19, 8, 0, true},
                        Case{2, 2, 1, 7, 20, 16, 0, false}, Case{1, 3, 3, 23, 31, 12, 6, true}}) {
    Given given(c);
    RefineLsePlainly(given.problem);
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t t = 0; t < c.rows; ++t) {
          long double sum = c.sinks ? std::exp(static_cast<long double>(given.sinks[h])) : 0;
          for (int64_t j = 0; j < c.keys; ++j) {
            const int64_t ago = c.keys - c.rows + t - j;
            if (ago < 0 || (c.window > 0 && ago >= c.window)) continue;
            long double score = 0;
            for (int64_t d = 0; d < c.size; ++d) {
              score += static_cast<long double>(given.q[((b * c.rows + t) * c.heads + h) * c.size + d]) *
                       given.k[((b * c.keys + j) * c.groups + h * c.groups / c.heads) * c.size + d];
            }
            sum += std::exp(score * 0.3L);
          }
          EXPECT_EQ(given.Answer(b, h, t), static_cast<float>(std::log(sum))) << h << ", " << t;
        }
        EXPECT_EQ(given.Answer(b, h, c.rows), kBefore);  // between rows
      }
    }
  }
}

TEST(AccurateLseTest, HeadsOfSmallOrBoundlessScoresKeepWhatTheyHave) {
  Given given({2, 4, 2, 6, 6, 8, 0, false});
  given.norms[1] = 1;                                        // query head 1 of the first row
  given.norms[5] = std::numeric_limits<double>::infinity();  // of its second key head
  given.norms[6 + 4] = std::nan("");                         // the second row's first key head
  RefineLsePlainly(given.problem);
  for (int64_t head = 0; head < 8; ++head) {
    const bool kept = head != 0 && head != 6 && head != 7;
    for (int64_t t = 0; t < 6; ++t) EXPECT_EQ(given.Answer(head / 4, head % 4, t) == kBefore, kept) << head;
  }
}

TEST(AccurateLseTest, RowsOfSmallLogSumExpsKeepWhatTheyHave) {
  Given given({1, 1, 1, 6, 6, 8, 0, false});
  const float before[] = {3, -3, 3.5, -3.5, std::nanf(""), 0};
  std::copy(before, before + 6, given.lse.begin());
  given.problem.least_lse = 3;
  RefineLsePlainly(given.problem);
  for (int64_t t = 0; t < 6; ++t) {
    const bool kept = t < 2 || t == 5;
    EXPECT_EQ(given.Answer(0, 0, t) == before[t], kept) << t;
    EXPECT_TRUE(std::isfinite(given.Answer(0, 0, t)));
  }
}

TEST(AccurateLseTest, RowsThatAreNotFiniteKeepWhatTheyHave) {
  Given given({1, 1, 1, 4, 4, 8, 0, false});
  given.q[2 * 8] = std::numeric_limits<float>::infinity();
  RefineLsePlainly(given.problem);
  for (int64_t t = 0; t < 4; ++t) EXPECT_EQ(given.Answer(0, 0, t) == kBefore, t == 2);
}

}  // namespace
}  // namespace eigsvc
