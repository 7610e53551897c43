#include "models/transition/windows.h"

#include <algorithm>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/maximum.h"
#include "ATen/ops/remainder.h"
#include "models/transition/normaliser.h"

namespace eigsvc {
namespace {

constexpr double kHalfTurn = std::numbers::pi;

// What holds a transition's steps, along dimension 1.
struct StepTensors {
  std::vector<at::Tensor*> operator()(ScalarPerUnit& kind) const { return {&kind.log_magnitude}; }
  std::vector<at::Tensor*> operator()(Diagonal& kind) const { return {&kind.values}; }
  std::vector<at::Tensor*> operator()(DiagonalPlusLowRank& kind) const { return {&kind.d, &kind.u, &kind.v}; }
  std::vector<at::Tensor*> operator()(Dense& kind) const { return {&kind.matrix}; }
  std::vector<at::Tensor*> operator()(Nilpotent&) const { return {}; }
};

std::vector<at::Tensor*> TensorsOf(Transition& transition) {
  return std::visit(StepTensors{}, transition.kind);
}

int64_t StepsOf(Transition& transition) {
  const std::vector<at::Tensor*> tensors = TensorsOf(transition);
  return tensors.empty() ? 1 : tensors[0]->size(1);
}

// Steps [begin, begin + length).
Transition Part(Transition transition, int64_t begin, int64_t length) {
  for (at::Tensor* tensor : TensorsOf(transition)) *tensor = tensor->narrow(1, begin, length);
  transition.first_step += begin;
  return transition;
}

// The steps of `next` behind those of `transition`.
void Append(Transition& transition, Transition next) {
  const std::vector<at::Tensor*> tensors = TensorsOf(transition), more = TensorsOf(next);
  for (size_t i = 0; i < tensors.size(); ++i) *tensors[i] = at::cat({*tensors[i], *more[i]}, 1);
  transition.noise_floor = std::max(transition.noise_floor, next.noise_floor);
  const at::Tensor& before = transition.device_noise_floor;
  if (before.defined()) transition.device_noise_floor = at::maximum(before, next.device_noise_floor);
}

// Sums of W neighbours by doubling: nothing is subtracted, so that a logarithm of -inf stays in its windows.
at::Tensor SumNeighbours(const at::Tensor& x, const Window& window) {
  const int64_t count = x.size(1) - window.length + 1;
  at::Tensor doubled = x, sum;  // doubled: sums of `size` steps
  int64_t offset = 0;
  for (int64_t size = 1; size <= window.length; size *= 2) {
    if ((window.length & size) != 0) {
      const at::Tensor part = doubled.narrow(1, offset, count);
      sum = sum.defined() ? sum + part : part;
      offset += size;
    }
    if (2 * size > window.length) break;
    const int64_t pairs = doubled.size(1) - size;
    doubled = doubled.narrow(1, 0, pairs) + doubled.narrow(1, size, pairs);
  }
  return sum.slice(1, 0, count, window.stride);
}

// Phases are added in half-turns, in which the phases of real numbers are integers and stay exact.
at::Tensor WrappedHalfTurns(const at::Tensor& half_turns, const at::Tensor& log_magnitude) {
  return (kHalfTurn * (1 - at::remainder(1 - half_turns, 2)))
      .masked_fill(log_magnitude == -std::numeric_limits<double>::infinity(), 0);
}

}  // namespace

std::optional<Transition> WindowStream::Add(Transition chunk, int64_t first_counted) {
  // Steps that are cut and put together stand for themselves.
  if (auto* scalar = std::get_if<ScalarPerUnit>(&chunk.kind))
    *scalar = {LogMagnitude(*scalar), scalar->multiplicity};
  if (held_.has_value()) {
    Append(*held_, std::move(chunk));
  } else {
    origin_ = std::max(chunk.first_step, first_counted);
    held_ = std::move(chunk);
  }
  const int64_t begin = origin_ + windows_ * window_.stride - held_->first_step;
  const int64_t steps = StepsOf(*held_), count = window_.Count(steps - begin);
  std::optional<Transition> whole;
  if (count > 0) {
    whole = Part(*held_, begin, (count - 1) * window_.stride + window_.length);
    whole->first_step = origin_ + windows_;
    const auto length = static_cast<double>(window_.length);
    whole->noise_floor *= length;
    if (whole->device_noise_floor.defined()) whole->device_noise_floor = whole->device_noise_floor * length;
    windows_ += count;
  }
  const int64_t next = std::min(begin + count * window_.stride, steps);
  held_ = Part(*std::move(held_), next, steps - next);
  // A view would keep the whole chunk.
  for (at::Tensor* tensor : TensorsOf(*held_)) *tensor = tensor->clone();
  return whole;
}

LogPolar SumOverWindows(const LogPolar& steps, const Window& window) {
  LogPolar sums;
  sums.log_magnitude = SumNeighbours(steps.log_magnitude.to(at::kDouble), window);
  if (steps.phase.defined())
    sums.phase = WrappedHalfTurns(SumNeighbours(steps.phase / kHalfTurn, window), sums.log_magnitude);
  return sums;
}

LogPolar Times(const LogPolar& a, const LogPolar& b) {
  const at::Tensor log_magnitude = a.log_magnitude + b.log_magnitude;
  return {log_magnitude, WrappedHalfTurns(a.phase / kHalfTurn + b.phase / kHalfTurn, log_magnitude)};
}

LogPolar TimesSteps(const LogPolar& step, int64_t steps) {
  const auto times = static_cast<double>(steps);
  LogPolar result;
  result.log_magnitude = step.log_magnitude.to(at::kDouble) * times;
  if (step.phase.defined())
    result.phase = WrappedHalfTurns(step.phase / kHalfTurn * times, result.log_magnitude);
  return result;
}

}  // namespace eigsvc
