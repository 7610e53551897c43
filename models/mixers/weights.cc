#include "models/mixers/weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"

namespace eigsvc {

void Weights::Set(absl::string_view name, at::Tensor tensor, bool trained) {
  tensors_[std::string(name)] = std::move(tensor);
  if (!trained) fixed_.emplace(name);
}
bool Weights::Has(absl::string_view name) const { return tensors_.contains(name); }
const at::Tensor& Weights::operator[](absl::string_view name) const { return tensors_.find(name)->second; }

absl::StatusOr<Weights> ModelWeights::Layer(int layer, const StopToken& stop) const {
  if (source != nullptr) return source->Load(layer, stop);
  return layers[static_cast<size_t>(layer)];
}

absl::StatusOr<ModelWeights> ModelWeights::Whole(const StopToken& stop) const {
  ModelWeights whole{outer, layers, nullptr};
  for (size_t layer = 0; source != nullptr && layer < layers.size(); ++layer) {
    EIGSVC_ASSIGN_OR_RETURN(whole.layers[layer], Layer(static_cast<int>(layer), stop));
  }
  return whole;
}

std::vector<at::Tensor> ModelWeights::Distinct() const {
  std::vector<at::Tensor> distinct;
  std::set<const void*> seen;
  const auto add = [&](const Weights& weights) {
    for (const auto& [name, tensor] : weights.all()) {
      if (weights.IsTrained(name) && seen.insert(tensor.unsafeGetTensorImpl()).second) {
        distinct.push_back(tensor);
      }
    }
  };
  add(outer);
  for (const Weights& layer : layers) add(layer);
  return distinct;
}

namespace {

// Every tensor copied once, tied ones by the same copy.
ModelWeights Copied(const ModelWeights& from,
                    absl::FunctionRef<at::Tensor(const at::Tensor& tensor, bool trained)> copy) {
  std::map<const void*, at::Tensor> copies;
  const auto each = [&](const Weights& weights) {
    Weights result;
    for (const auto& [name, tensor] : weights.all()) {
      const bool trained = weights.IsTrained(name);
      at::Tensor& known = copies[tensor.unsafeGetTensorImpl()];
      if (!known.defined()) known = copy(tensor, trained);
      result.Set(name, known, trained);
    }
    return result;
  };
  ModelWeights result;
  result.outer = each(from.outer);
  for (const Weights& layer : from.layers) result.layers.push_back(each(layer));
  return result;
}

}  // namespace

ModelWeights ModelWeights::Clone(bool requires_grad) const {
  return Copied(*this, [&](const at::Tensor& tensor, bool trained) {
    return tensor.detach().clone().set_requires_grad(requires_grad && trained);
  });
}

ModelWeights ModelWeights::On(c10::Device device) const {
  return Copied(*this, [&](const at::Tensor& tensor, bool) {
    return tensor.detach().to(tensor.options().device(device));
  });
}

Draw DrawConstant(double value) {
  return [value](Random&) { return value; };
}

Draw DrawNormal(double deviation) {
  return [deviation](Random& random) { return deviation * random.Normal(); };
}

Draw DrawUniform(double low, double high) {
  return [low, high](Random& random) { return low + (high - low) * random.Unit(); };
}

Draw DrawLinear(int64_t fan_in) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return DrawUniform(-bound, bound);
}

Draw DrawLecunNormal(int64_t fan_in) {
  // 0.8796...: the deviation of a standard normal cut at ±2.
  const double deviation = 1 / (0.87962566103423978 * std::sqrt(static_cast<double>(fan_in)));
  return [deviation](Random& random) {
    double value = random.Normal();
    while (std::abs(value) > 2) value = random.Normal();
    return deviation * value;
  };
}

Draw DrawStepBias(double low, double high) {
  return [low, high](Random& random) {
    const double step = std::exp(std::log(low) + random.Unit() * (std::log(high) - std::log(low)));
    return step + std::log(-std::expm1(-step));
  };
}

DrawTensor DrawByIndex(std::function<double(int64_t)> value) {
  return [value = std::move(value)](Random&, const Weights&, absl::Span<double> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = value(static_cast<int64_t>(i));
  };
}

std::vector<int64_t> WeightSpec::StoredShape() const {
  std::vector<int64_t> stored = shape;
  if (transposed) std::reverse(stored.begin(), stored.end());
  return stored;
}

int64_t WeightSpec::ElementCount() const {
  constexpr double kMost = static_cast<double>(int64_t{1} << 40);
  double count = 1;
  for (const int64_t size : shape) count = std::min(count * static_cast<double>(size), kMost);
  return static_cast<int64_t>(count);
}

at::ScalarType WeightSpec::DtypeIn(at::ScalarType dtype) const {
  return keep_float32 && dtype != at::kDouble ? at::kFloat : dtype;
}

int64_t ParameterCount(const WeightPlan& plan) {
  int64_t count = 0;
  for (const WeightSpec& spec : plan) {
    if (spec.tied_to.empty() && spec.trained) count += spec.ElementCount();
  }
  return count;
}

int64_t PlannedBytes::All() const { return std::accumulate(layers.begin(), layers.end(), outer); }
int64_t PlannedBytes::Streamed() const {
  return outer + 2 * (layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end()));
}

std::set<WeightName> SharedNames(const WeightPlan& plan) {
  std::set<WeightName> names;
  for (const WeightSpec& spec : plan) {
    if (!spec.tied_to.empty()) names.emplace(spec.tied_layer, spec.tied_to);
  }
  return names;
}

PlannedBytes BytesOf(const WeightPlan& plan, at::ScalarType dtype) {
  PlannedBytes bytes;
  const std::set<WeightName> shared = SharedNames(plan);
  for (const WeightSpec& spec : plan) {
    if (!spec.tied_to.empty()) continue;
    const size_t layers = static_cast<size_t>(spec.layer + 1);
    if (bytes.layers.size() < layers) bytes.layers.resize(layers);
    const bool stays = spec.layer == WeightSpec::kOuter || shared.count({spec.layer, spec.name}) > 0;
    (stays ? bytes.outer : bytes.layers[layers - 1]) +=
        spec.ElementCount() * static_cast<int64_t>(c10::elementSize(spec.DtypeIn(dtype)));
  }
  return bytes;
}

WeightSpec& WeightPlanner::Add(const std::string& name, std::vector<int64_t> shape, Draw draw) const {
  const std::pair<std::string, std::string>* best = nullptr;
  for (const auto& entry : keys_) {
    if (absl::StartsWith(name, entry.first) && (best == nullptr || entry.first.size() > best->first.size())) {
      best = &entry;
    }
  }
  const std::string stored = best == nullptr ? name : best->second + name.substr(best->first.size());
  plan_.push_back({layer_, name, key_prefix_ + stored, std::move(shape), std::move(draw)});
  return plan_.back();
}

void WeightPlanner::Linear(const std::string& name, int64_t out, int64_t in, bool bias) const {
  AddLinear(name, out, in, bias, style_.draw);
}

void WeightPlanner::ResidualLinear(const std::string& name, int64_t out, int64_t in, bool bias) const {
  AddLinear(name, out, in, bias, style_.residual_draw ? style_.residual_draw : style_.draw);
}

void WeightPlanner::AddLinear(const std::string& name, int64_t out, int64_t in, bool bias,
                              const Draw& draw) const {
  const bool flax = style_.defaults == LinearStyle::Defaults::kFlax;
  const Draw fallback = flax ? DrawLecunNormal(in) : DrawLinear(in);
  Add(name + ".weight", {out, in}, draw ? draw : fallback).transposed = style_.transposed;
  const bool drawn_bias = style_.defaults == LinearStyle::Defaults::kTorch;
  if (bias) Add(name + ".bias", {out}, drawn_bias ? DrawLinear(in) : DrawConstant(0));
}

void WeightPlanner::Stack(const std::string& name, int64_t count, int64_t out, int64_t in) const {
  Add(name, {count, out, in}, style_.draw ? style_.draw : DrawLinear(in));
}

bool MatchesPattern(const std::string& text, const std::string& pattern) {
  const std::vector<std::string> parts = absl::StrSplit(pattern, '*');
  if (parts.size() == 1) return text == pattern;
  const std::string& first = parts.front();
  const std::string& last = parts.back();
  if (text.size() < first.size() + last.size() || !absl::StartsWith(text, first) ||
      !absl::EndsWith(text, last)) {
    return false;
  }
  size_t position = first.size();
  for (size_t i = 1; i + 1 < parts.size(); ++i) {
    const size_t found = text.find(parts[i], position);
    if (found == std::string::npos) return false;
    position = found + parts[i].size();
  }
  return position <= text.size() - last.size();
}

}  // namespace eigsvc
