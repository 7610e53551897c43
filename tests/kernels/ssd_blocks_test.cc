// The plain passes of the state-space dual form, with the products between them, against its recurrence.
#include "models/kernels/ssd_blocks.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using Floats = std::vector<float>;

struct Given {
  SsdShape shape;
  Floats x, dt, log_decay, b, c, initial, skip;  // dt, initial and skip may be empty
  int64_t x_step_stride = 0;                     // x is part of something wider
  bool skip_per_channel = false;

  float X(int64_t row, int64_t t, int64_t h, int64_t p) const {
    return x[(row * shape.steps + t) * x_step_stride + h * shape.width + p];
  }
  float Dt(int64_t row, int64_t t, int64_t h) const {
    return dt.empty() ? 1 : dt[(row * shape.steps + t) * shape.heads + h];
  }
  float LogDecay(int64_t row, int64_t t, int64_t h) const {
    return log_decay[(row * shape.steps + t) * shape.heads + h];
  }
  // b and c [B,T,G,N], 0 beyond the last step.
  double Of(const Floats& values, int64_t row, int64_t t, int64_t group, int64_t n) const {
    if (t >= shape.steps) return 0;
    return values[((row * shape.steps + t) * shape.groups + group) * shape.order + n];
  }
  double Skip(int64_t h, int64_t p) const {
    return skip.empty() ? 0 : skip[skip_per_channel ? h * shape.width + p : h];
  }
};

struct Outcome {
  std::vector<double> y, final_state;  // [B,T,H,P], [B,H,P,N]
};

// S_t = λ_t S_{t-1} + Δ_t x_t B_tᵀ; y_t = S_t C_t + D x_t.
Outcome ByRecurrence(const Given& given) {
  const SsdShape& s = given.shape;
  Outcome outcome{std::vector<double>(s.batch * s.steps * s.heads * s.width),
                  std::vector<double>(s.batch * s.heads * s.width * s.order)};
  for (int64_t i = 0; i < s.batch * s.heads * s.width; ++i) {
    const int64_t row = i / s.width / s.heads, h = i / s.width % s.heads, p = i % s.width;
    const int64_t group = h / (s.heads / s.groups);
    double* const state = outcome.final_state.data() + i * s.order;
    for (int64_t n = 0; n < s.order; ++n)
      state[n] = given.initial.empty() ? 0 : given.initial[i * s.order + n];
    for (int64_t t = 0; t < s.steps; ++t) {
      double y = given.Skip(h, p) * given.X(row, t, h, p);
      for (int64_t n = 0; n < s.order; ++n) {
        state[n] = std::exp(static_cast<double>(given.LogDecay(row, t, h))) * state[n] +
                   static_cast<double>(given.Dt(row, t, h)) * given.X(row, t, h, p) *
                       given.Of(given.b, row, t, group, n);
        y += state[n] * given.Of(given.c, row, t, group, n);
      }
      outcome.y[((row * s.steps + t) * s.heads + h) * s.width + p] = y;
    }
  }
  return outcome;
}

// As models/layers/ssd_by_blocks.cc puts them together.
Outcome ByPasses(const Given& given) {
  const SsdShape& s = given.shape;
  const int64_t shared = s.heads / s.groups, blocks_of_all = s.batch * s.blocks;
  const auto step = [&](int64_t block, int64_t q) { return block % s.blocks * s.block + q; };
  std::vector<double> running(blocks_of_all * s.heads * s.block);
  for (int64_t i = 0; i < blocks_of_all * s.heads; ++i) {
    double sum = 0;
    for (int64_t q = 0; q < s.block; ++q) {
      const int64_t block = i / s.heads, t = step(block, q);
      if (t < s.steps) sum += given.LogDecay(block / s.blocks, t, i % s.heads);
      running[i * s.block + q] = sum;
    }
  }
  Floats by_head(blocks_of_all * s.heads * s.block * s.width), weighted(by_head.size());
  Floats scores(blocks_of_all * s.groups * s.block * s.block),
      mixing(blocks_of_all * s.heads * s.block * s.block), inside(by_head.size()), carried(by_head.size());
  Floats added(blocks_of_all * s.heads * s.width * s.order), starts(added.size()),
      final_state(s.batch * s.heads * s.width * s.order), y(s.batch * s.steps * s.heads * s.width);

  SsdBlocks passes;
  passes.shape = s;
  passes.running = running.data();
  if (!given.dt.empty()) passes.dt = given.dt.data();
  passes.dt_batch_stride = s.steps * s.heads;
  passes.dt_step_stride = s.heads;
  passes.dt_head_stride = 1;
  passes.x = given.x.data();
  passes.x_batch_stride = s.steps * given.x_step_stride;
  passes.x_step_stride = given.x_step_stride;
  passes.by_head = by_head.data();
  passes.weighted = weighted.data();
  SplitInputsPlainly(passes);

  for (int64_t i = 0; i < blocks_of_all * s.groups * s.block * s.block; ++i) {
    const int64_t block = i / s.block / s.block / s.groups, group = i / s.block / s.block % s.groups;
    for (int64_t n = 0; n < s.order; ++n) {
      scores[i] += static_cast<float>(
          given.Of(given.c, block / s.blocks, step(block, i / s.block % s.block), group, n) *
          given.Of(given.b, block / s.blocks, step(block, i % s.block), group, n));
    }
  }
  passes.scores = scores.data();
  passes.mixing = mixing.data();
  MixStepsPlainly(passes);
  for (int64_t i = 0; i < blocks_of_all * s.heads; ++i) {
    for (int64_t l = 0; l < s.block; ++l) {
      for (int64_t k = 0; k < s.block; ++k) {
        for (int64_t p = 0; p < s.width; ++p) {
          inside[(i * s.block + l) * s.width + p] +=
              mixing[(i * s.block + l) * s.block + k] * by_head[(i * s.block + k) * s.width + p];
        }
      }
    }
  }

  // Both products of states go over what heads of a group share: [B,K,G,Q,(H/G)·P].
  const auto of_group = [&](int64_t block, int64_t h, int64_t q, int64_t p) {
    return ((block * s.groups + h / shared) * s.block + q) * shared * s.width + h % shared * s.width + p;
  };
  const auto each_state = [&](const auto& body) {
    for (int64_t i = 0; i < static_cast<int64_t>(added.size()); ++i) {
      const int64_t n = i % s.order, p = i / s.order % s.width, h = i / s.order / s.width % s.heads,
                    block = i / s.order / s.width / s.heads;
      for (int64_t q = 0; q < s.block; ++q) body(i, block, h, p, n, q);
    }
  };
  each_state([&](int64_t i, int64_t block, int64_t h, int64_t p, int64_t n, int64_t q) {
    added[i] += static_cast<float>(weighted[of_group(block, h, q, p)] *
                                   given.Of(given.b, block / s.blocks, step(block, q), h / shared, n));
  });
  passes.added = added.data();
  if (!given.initial.empty()) passes.initial = given.initial.data();
  passes.starts = starts.data();
  passes.final_state = final_state.data();
  PassStatesPlainly(passes);
  each_state([&](int64_t i, int64_t block, int64_t h, int64_t p, int64_t n, int64_t q) {
    carried[of_group(block, h, q, p)] +=
        static_cast<float>(starts[i] * given.Of(given.c, block / s.blocks, step(block, q), h / shared, n));
  });

  passes.inside = inside.data();
  passes.carried = carried.data();
  if (!given.skip.empty()) passes.skip = given.skip.data();
  passes.skip_per_channel = given.skip_per_channel;
  passes.y = y.data();
  JoinOutputsPlainly(passes);
  return {{y.begin(), y.end()}, {final_state.begin(), final_state.end()}};
}

Floats Random(int64_t count, double from, double to, std::mt19937_64& bits) {
  std::uniform_real_distribution<float> uniform(static_cast<float>(from), static_cast<float>(to));
  Floats values(count);
  for (float& x : values) x = uniform(bits);
  return values;
}

TEST(SsdBlocksTest, ThePassesTogetherAreTheRecurrence) {
  std::mt19937_64 bits(4);
  // One block and several, filled and not; groups of one head and of several.
  for (const SsdShape& s : {SsdShape{1, 1, 1, 8, 1, 1, 1, 1}, SsdShape{2, 16, 2, 8, 4, 2, 3, 5},
                            SsdShape{2, 19, 3, 8, 6, 1, 2, 4}, SsdShape{1, 9, 9, 1, 2, 2, 5, 3}}) {
    for (const bool bare : {false, true}) {
      Given given;
      given.shape = s;
      given.x_step_stride = s.heads * s.width + 3;
      given.x = Random(s.batch * s.steps * given.x_step_stride, -1, 1, bits);
      given.log_decay = Random(s.batch * s.steps * s.heads, -1, 0, bits);
      given.b = Random(s.batch * s.steps * s.groups * s.order, -1, 1, bits);
      given.c = Random(s.batch * s.steps * s.groups * s.order, -1, 1, bits);
      if (!bare) {
        given.dt = Random(s.batch * s.steps * s.heads, 0, 1, bits);
        given.initial = Random(s.batch * s.heads * s.width * s.order, -1, 1, bits);
        given.skip_per_channel = s.width > 2;
        given.skip = Random(given.skip_per_channel ? s.heads * s.width : s.heads, -1, 1, bits);
      }
      const Outcome expected = ByRecurrence(given), found = ByPasses(given);
      for (size_t i = 0; i < expected.y.size(); ++i)
        ASSERT_NEAR(found.y[i], expected.y[i], 2e-6) << s.steps << " steps, " << i;
      for (size_t i = 0; i < expected.final_state.size(); ++i)
        ASSERT_NEAR(found.final_state[i], expected.final_state[i], 2e-6) << s.steps << " steps, " << i;
    }
  }
}

}  // namespace
}  // namespace eigsvc
