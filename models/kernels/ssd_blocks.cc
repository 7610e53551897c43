#include "models/kernels/ssd_blocks.h"

#include <cmath>

#include "models/kernels/ssd_place.h"

namespace eigsvc {
namespace {

using kernels::SsdPlace;

// body(place) for each of [B,K,Q,H,P].
template <typename Body>
void ForEachPlace(const SsdShape& s, const Body& body) {
  const auto places = static_cast<uint32_t>(s.block * s.heads * s.width);
  for (int64_t block = 0; block < s.batch * s.blocks; ++block) {
    for (uint32_t i = 0; i < places; ++i) body(SsdPlace::Of(s, block, i));
  }
}

}  // namespace

void SplitInputsPlainly(const SsdBlocks& blocks) {
  const SsdShape& s = blocks.shape;
  ForEachPlace(s, [&](const SsdPlace& place) {
    double x = 0, weight = 0;
    if (place.Step(s) < s.steps) {
      x = kernels::ElementAt(s.element, blocks.x, place.X(blocks));
      weight = std::exp(blocks.running[place.RunningAtEnd(s)] - blocks.running[place.Running(s)]);
      if (blocks.dt != nullptr) weight *= blocks.dt[place.Dt(blocks)];
    }
    static_cast<float*>(blocks.by_head)[place.ByHead(s)] = static_cast<float>(x);
    static_cast<float*>(blocks.weighted)[place.ByGroup(s)] = static_cast<float>(x * weight);
  });
}

void MixStepsPlainly(const SsdBlocks& blocks) {
  const SsdShape& s = blocks.shape;
  const int64_t shared = s.heads / s.groups;
  auto* mixing = static_cast<float*>(blocks.mixing);
  for (int64_t i = 0; i < s.batch * s.blocks * s.heads; ++i) {
    const SsdPlace head{i / s.heads / s.blocks, i / s.heads % s.blocks, 0, i % s.heads, 0};
    const double* const running = blocks.running + i * s.block;
    const float* scores = blocks.scores + (i / s.heads * s.groups + head.h / shared) * s.block * s.block;
    for (int64_t l = 0; l < s.block; ++l) {
      for (int64_t k = 0; k < s.block; ++k, ++scores) {
        SsdPlace from = head;
        from.q = k;
        const bool there = k <= l && from.Step(s) < s.steps;
        const double dt = there && blocks.dt != nullptr ? blocks.dt[from.Dt(blocks)] : 1;
        *mixing++ = there ? static_cast<float>(std::exp(running[l] - running[k]) * dt * *scores) : 0.0f;
      }
    }
  }
}

void PassStatesPlainly(const SsdBlocks& blocks) {
  const SsdShape& s = blocks.shape;
  const int64_t size = s.width * s.order;
  for (int64_t row = 0; row < s.batch * s.heads; ++row) {
    const int64_t b = row / s.heads, h = row % s.heads;
    for (int64_t i = 0; i < size; ++i) {
      double state = blocks.initial == nullptr ? 0 : blocks.initial[row * size + i];
      for (int64_t k = 0; k < s.blocks; ++k) {
        const int64_t at = (b * s.blocks + k) * s.heads + h;
        const double added = blocks.added[at * size + i];
        static_cast<float*>(blocks.starts)[at * size + i] = static_cast<float>(state);
        state = state * std::exp(blocks.running[at * s.block + s.block - 1]) + added;
      }
      blocks.final_state[row * size + i] = static_cast<float>(state);
    }
  }
}

void JoinOutputsPlainly(const SsdBlocks& blocks) {
  const SsdShape& s = blocks.shape;
  ForEachPlace(s, [&](const SsdPlace& place) {
    if (place.Step(s) >= s.steps) return;
    double y = kernels::ElementAt(s.element, blocks.inside, place.ByHead(s)) +
               std::exp(blocks.running[place.Running(s)]) *
                   kernels::ElementAt(s.element, blocks.carried, place.ByGroup(s));
    if (blocks.skip != nullptr) {
      y += blocks.skip[blocks.skip_per_channel ? place.h * s.width + place.p : place.h] *
           kernels::ElementAt(s.element, blocks.x, place.X(blocks));
    }
    static_cast<float*>(blocks.y)[place.Y(s)] = static_cast<float>(y);
  });
}

}  // namespace eigsvc
