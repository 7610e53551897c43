// The layers that run by kernels on CUDA devices, on a GPU.
#include <limits>
#include <tuple>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/Tensor.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "gtest/gtest.h"
#include "models/layers/conv1d.h"
#include "models/layers/norm.h"
#include "models/layers/rope.h"
#include "models/layers/selective_scan.h"
#include "models/layers/ssd_by_blocks.h"

namespace eigsvc {
namespace {

const c10::Device kCuda(c10::kCUDA, 0);

// The layers of models/layers on the device, which run by kernels, against the host's float64 on the same,
// rounded, inputs. Of 8 bits of bfloat16 a sum of many rounded terms keeps 7 or so.
double Allowed(c10::ScalarType type) { return type == at::kFloat ? 5e-6 : type == at::kHalf ? 4e-3 : 2e-2; }

// Relative to the largest.
double Off(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.cpu().to(at::kDouble) - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST(LayerKernelsGpuTest, ShortConvolutions) {
  const at::NoGradGuard no_grad;
  for (const c10::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t taps : {1, 2, 3, 4}) {
      for (const int64_t channels : {5, 64, 300}) {
        const at::Tensor wide = at::randn({2, 77, channels + 8}, at::kFloat).to(type);
        const at::Tensor weight = at::randn({channels, 1, taps}, at::kFloat).to(type),
                         bias = at::randn({channels}, at::kFloat).to(type),
                         tail = at::randn({2, taps - 1, channels}, at::kFloat).to(type);
        for (const int64_t first : {8, 3}) {  // of vectors, and between them
          const at::Tensor x = wide.narrow(2, first, channels);
          const at::Tensor on_device = wide.to(kCuda).narrow(2, first, channels);
          for (const bool silu : {false, true}) {
            const auto d = [](const at::Tensor& t) { return t.to(at::kDouble); };
            const auto c = [](const at::Tensor& t) { return t.to(kCuda); };
            const CausalConv1dOutput expected = CausalConv1d(d(x), d(weight), d(bias), d(tail), silu),
                                     found = CausalConv1d(on_device, c(weight), c(bias), c(tail), silu);
            EXPECT_EQ(found.output.scalar_type(), type);
            EXPECT_LE(Off(found.output, expected.output), Allowed(type)) << taps << " " << channels;
            if (taps > 1) {
              EXPECT_EQ(Off(found.tail, expected.tail), 0);
            }
            EXPECT_LE(Off(CausalConv1d(on_device, c(weight), {}, {}, silu).output,
                          CausalConv1d(d(x), d(weight), {}, {}, silu).output),
                      Allowed(type));
          }
        }
      }
    }
  }
}

TEST(LayerKernelsGpuTest, Norms) {
  const at::NoGradGuard no_grad;
  for (const c10::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {3, 12, 64, 1000, 4096}) {
      const at::Tensor wide = (at::randn({2, 19, 2 * size + 8}, at::kFloat) * 3).to(type);
      const at::Tensor x = wide.narrow(2, 0, size), z = wide.narrow(2, size + 3, size),
                       weight = at::randn({size}, at::kFloat).to(type);
      const auto d = [](const at::Tensor& t) { return t.to(at::kDouble); };
      const at::Tensor there = wide.to(kCuda), w = weight.to(kCuda), gate = there.narrow(2, size + 3, size);
      EXPECT_LE(Off(RmsNorm(there.narrow(2, 0, size), w, 1e-5), RmsNorm(d(x), d(weight), 1e-5)),
                Allowed(type))
          << size;
      const at::Tensor wider = there.narrow(2, 0, size).to(at::kFloat);  // of narrow weights
      EXPECT_EQ(RmsNorm(wider, w, 1e-5).scalar_type(), type);
      EXPECT_LE(Off(RmsNorm(wider, w, 1e-5), RmsNorm(d(x), d(weight), 1e-5)), Allowed(type)) << size;
      EXPECT_LE(Off(GatedRmsNorm(wider, gate, w, 1e-5, 1, false),
                    GatedRmsNorm(d(x), d(z), d(weight), 1e-5, 1, false)),
                Allowed(type))
          << size;
      EXPECT_LE(Off(RmsNorm(there.narrow(2, 0, size).contiguous().view({38, size}), w, 1e-5),
                    RmsNorm(d(x), d(weight), 1e-5).view({38, size})),
                Allowed(type))
          << size;
      for (const int64_t groups : {int64_t{1}, size % 4 == 0 ? int64_t{4} : int64_t{1}}) {
        for (const bool before : {false, true}) {
          EXPECT_LE(Off(GatedRmsNorm(there.narrow(2, 0, size), gate, w, 1e-5, groups, before),
                        GatedRmsNorm(d(x), d(z), d(weight), 1e-5, groups, before)),
                    Allowed(type))
              << size;
        }
      }
    }
    const at::Tensor x = at::randn({2, 5, 6, 16}, at::kFloat).to(type),
                     weight = at::randn({6, 16}, at::kFloat).to(type);
    EXPECT_LE(Off(RmsNorm(x.to(kCuda), weight.to(kCuda), 1e-6),
                  RmsNorm(x.to(at::kDouble), weight.to(at::kDouble), 1e-6)),
              Allowed(type));
  }
}

// Stretches side by side and one alone, orders of every instance, with and without a state to start from.
TEST(LayerKernelsGpuTest, SelectiveScans) {
  const at::NoGradGuard no_grad;
  for (const auto& [rows, steps, channels, order] :
       {std::tuple(2, 1, 3, 1), std::tuple(1, 700, 130, 16), std::tuple(3, 1111, 64, 8),
        std::tuple(1, 2050, 257, 20), std::tuple(200, 90, 500, 3), std::tuple(1, 63, 5, 32)}) {
    const at::Tensor wide = at::randn({rows, steps, channels + 2 * order + 1}, at::kFloat);
    const auto inputs = [&](c10::Device device, c10::ScalarType type) {
      const at::Tensor there = wide.to(device, type);
      return SelectiveScanInput{there.narrow(2, 1, channels),
                                {},
                                there.narrow(2, channels + 1, order),
                                there.narrow(2, channels + order + 1, order)};
    };
    SelectiveScanInput expected = inputs(at::kCPU, at::kDouble), found = inputs(kCuda, at::kFloat);
    const auto both = [&](at::Tensor SelectiveScanInput::*member, const at::Tensor& value) {
      expected.*member = value.to(at::kDouble);
      found.*member = value.to(kCuda);
    };
    both(&SelectiveScanInput::dt, at::rand({rows, steps, channels}, at::kFloat) * 0.3 + 1e-3);
    const at::Tensor a = -4 * at::rand({channels, order}, at::kFloat);
    a.select(1, 0).fill_(-std::numeric_limits<double>::infinity());  // a state that keeps nothing
    both(&SelectiveScanInput::a, a);
    both(&SelectiveScanInput::d, at::randn({channels}, at::kFloat));
    ASSERT_TRUE(ScansInOnePass(found));
    at::Tensor state, there;
    for (const bool carried : {false, true}) {  // the second goes on where the first ended
      EXPECT_LE(Off(SelectiveScan(found, there), SelectiveScan(expected, state)), 5e-6)
          << rows << " " << steps << " " << order << " " << carried;
      EXPECT_LE(Off(there, state), 5e-6) << rows << " " << steps << " " << order << " " << carried;
    }
  }
}

TEST(LayerKernelsGpuTest, RotaryEmbeddings) {
  const at::NoGradGuard no_grad;
  for (const c10::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const auto& [head, size] :
         {std::pair(64, 64), std::pair(64, 16), std::pair(10, 6), std::pair(20, 8)}) {
      for (const RotaryPairs pairs : {RotaryPairs::kHalves, RotaryPairs::kInterleaved}) {
        const at::Tensor wide = at::randn({2, 33, 3, head + 8}, at::kFloat).to(type);
        for (const int64_t first : {8, 1}) {
          const Rotary rotary({size, 10000, {}, pairs}, type), exact({size, 10000, {}, pairs}, at::kDouble);
          EXPECT_LE(Off(rotary.Turn(wide.to(kCuda).narrow(3, first, head), 10, 50),
                        exact.Turn(wide.to(at::kDouble).narrow(3, first, head), 10, 50)),
                    Allowed(type))
              << head << " " << size;
        }
      }
    }
  }
}

TEST(LayerKernelsGpuTest, StateSpaceDualForm) {
  const at::NoGradGuard no_grad;
  for (const c10::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [batch, steps, heads, groups, width, order] :
         {std::tuple(8, 1, 2, 1, 1, 1), std::tuple(2, 50, 4, 2, 3, 5), std::tuple(1, 256, 3, 1, 64, 128),
          std::tuple(2, 1000, 4, 2, 16, 24), std::tuple(1, 130, 2, 1, 20, 7)}) {
      const auto normal = [&](at::IntArrayRef sizes) { return at::randn(sizes, at::kFloat); };
      const at::Tensor dt = at::rand({batch, steps, heads}, at::kFloat) * 0.3;
      SsdInput input{normal({batch, steps, heads, width}).to(type),
                     dt,
                     dt * -at::rand({heads}, at::kFloat) * 16,
                     normal({batch, steps, groups, order}).to(type),
                     normal({batch, steps, groups, order}).to(type),
                     normal({batch, heads, width, order}),
                     normal({heads})};
      const auto mapped = [&](const auto& f) {
        return SsdInput{f(input.x),   f(input.dt), f(input.log_decay),
                        f(input.b),   f(input.c),  f(input.initial_state),
                        f(input.skip)};
      };
      const SsdOutput expected = Ssd(mapped([](const at::Tensor& t) { return t.to(at::kDouble); }));
      const SsdInput there = mapped([](const at::Tensor& t) { return t.to(kCuda); });
      ASSERT_TRUE(SsdGoesByBlocks(there.x, heads));
      const SsdOutput found = Ssd(there);
      EXPECT_EQ(found.y.scalar_type(), type);
      EXPECT_EQ(found.final_state.scalar_type(), at::kFloat);
      EXPECT_LE(Off(found.y, expected.y), Allowed(type)) << steps << " " << heads;
      EXPECT_LE(Off(found.final_state, expected.final_state), Allowed(type)) << steps << " " << heads;
    }
  }
}

}  // namespace
}  // namespace eigsvc
