#include "models/zoo/weight_loader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "ATen/ops/aminmax.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/flatten.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/nonzero.h"
#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tensor/device_queue.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

constexpr size_t kListed = 4;
constexpr int64_t kBlockElements = int64_t{1} << 22;  // milliseconds of copying between looks at the token

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// "3 missing keys: a, b, c"; nothing for none.
void AppendList(absl::string_view kind, const std::vector<std::string>& keys,
                std::vector<std::string>& parts) {
  if (keys.empty()) return;
  const std::vector<std::string> first(keys.begin(), keys.begin() + std::min(keys.size(), kListed));
  parts.push_back(absl::StrCat(keys.size(), " ", kind, keys.size() == 1 ? " key: " : " keys: ",
                               absl::StrJoin(first, ", "), keys.size() > kListed ? ", ..." : ""));
}

// "hidden_size 64, attention_bias true": numbers and switches alone, which decide shapes, as far as an error
// message has room.
std::string Sizes(const Settings& settings) {
  constexpr size_t kMostBytes = 400;
  std::string text;
  for (const auto& [name, value] : settings.object().items()) {
    if (!value.is_number_integer() && !value.is_boolean()) continue;
    const std::string part = absl::StrCat(text.empty() ? "" : ", ", name, " ", value.dump());
    if (text.size() + part.size() > kMostBytes) return absl::StrCat(text, ", ...");
    text += part;
  }
  return text;
}

// "vocab_size 16777216, d_model 4096": the largest numbers, most of which a model's size comes from.
std::string LargestNumbers(const Settings& settings) {
  constexpr size_t kMost = 6;
  std::vector<std::pair<double, std::string>> numbers;
  const nlohmann::json flat = settings.object().flatten();
  for (const auto& [place, value] : flat.items()) {
    if (!value.is_number() || value.get<double>() <= 1) continue;
    const std::string name = absl::StrReplaceAll(absl::StripPrefix(place, "/"), {{"/", "."}});
    numbers.emplace_back(-value.get<double>(), absl::StrCat(name, " ", value.dump()));
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.resize(std::min(kMost, numbers.size()));
  return absl::StrJoin(numbers, ", ",
                       [](std::string* out, const auto& number) { out->append(number.second); });
}

absl::Status CheckKeys(const Archive& archive, const WeightPlan& plan,
                       const std::vector<std::string>& ignored, const Settings& settings) {
  std::vector<std::string> missing, unexpected, misshaped, not_float;
  std::set<std::string> planned;
  for (const WeightSpec& spec : plan) {
    planned.insert(spec.key);
    const auto found = archive.tensors().find(spec.key);
    if (found == archive.tensors().end()) {
      if (spec.tied_to.empty()) missing.push_back(spec.key);
      continue;
    }
    if (found->second.shape != spec.StoredShape()) {
      misshaped.push_back(absl::StrCat(spec.key, " has shape ", ShapeText(found->second.shape), " where ",
                                       ShapeText(spec.StoredShape()), " is expected"));
    }
    switch (found->second.type) {
      case ElementType::kFloat8E4M3:
      case ElementType::kFloat8E5M2:
      case ElementType::kFloat16:
      case ElementType::kBFloat16:
      case ElementType::kFloat32:
      case ElementType::kFloat64:
        break;
      default:
        not_float.push_back(absl::StrCat(spec.key, " (", ElementName(found->second.type), ")"));
    }
  }
  for (const auto& [key, tensor] : archive.tensors()) {
    const bool known = planned.count(key) > 0 || absl::StartsWith(key, kOptimizerPrefix) ||
                       std::any_of(ignored.begin(), ignored.end(),
                                   [&](const auto& pattern) { return MatchesPattern(key, pattern); });
    if (!known) unexpected.push_back(key);
  }
  std::vector<std::string> parts;
  AppendList("missing", missing, parts);
  AppendList("unexpected", unexpected, parts);
  AppendList("mis-shaped", misshaped, parts);
  AppendList("not floating-point", not_float, parts);
  if (parts.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(archive.name(), " does not hold the weights its settings (", Sizes(settings),
                   ") describe: ", absl::StrJoin(parts, "; "),
                   ". Check the settings (config.json, or --config) and that the file is whole"));
}

absl::Status NotFinite(const std::string& key, const at::Tensor& tensor) {
  const at::Tensor bad = at::nonzero(at::isfinite(at::flatten(tensor)).logical_not());
  return absl::DataLossError(absl::StrCat("weight ", key, " holds ", bad.size(0), " NaN or infinite element",
                                          bad.size(0) == 1 ? "" : "s", ", the first at row-major index ",
                                          bad[0].item<int64_t>(),
                                          "; the checkpoint is damaged or its training diverged"));
}

Weights& Place(const WeightSpec& spec, ModelWeights& weights) {
  if (spec.layer == WeightSpec::kOuter) return weights.outer;
  if (weights.layers.size() <= static_cast<size_t>(spec.layer)) weights.layers.resize(spec.layer + 1);
  return weights.layers[spec.layer];
}

// Calls `use` with one pair of corresponding pieces of two tensors of the same shape after the other, cut
// along the longest dimension.
template <typename Use>
absl::Status InBlocks(const at::Tensor& a, const at::Tensor& b, const StopToken& stop, const Use& use) {
  if (a.numel() == 0) return absl::OkStatus();
  if (a.dim() == 0) return use(a, b);
  const auto longest = std::max_element(a.sizes().begin(), a.sizes().end());
  const int64_t dimension = longest - a.sizes().begin();
  const int64_t step = std::max<int64_t>(1, kBlockElements / (a.numel() / *longest));
  for (int64_t start = 0; start < *longest; start += step) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    const int64_t length = std::min(step, *longest - start);
    EIGSVC_RETURN_IF_ERROR(use(a.narrow(dimension, start, length), b.narrow(dimension, start, length)));
  }
  return absl::OkStatus();
}

bool AllFinite(const at::Tensor& tensor) {
  const auto [low, high] = at::aminmax(tensor);  // both propagate NaN
  return std::isfinite(low.item<double>()) && std::isfinite(high.item<double>());
}

// A block of a tensor to the other's device and type. To a CUDA device through page-locked memory, so that
// the next block is read while this one travels; what the types differ by is left to the device.
absl::Status CopyBlock(const at::Tensor& to, const at::Tensor& from, DeviceQueue& queue) {
  if (!to.is_cuda()) {
    to.copy_(from);
    return absl::OkStatus();
  }
  const at::Tensor staged = at::empty(from.sizes(), from.options().pinned_memory(true));
  staged.copy_(from);
  const at::Tensor there = staged.to(to.device(), staged.scalar_type(), /*non_blocking=*/true);
  to.copy_(there);
  return queue.PieceQueued();
}

absl::StatusOr<at::Tensor> LoadOne(const ArchiveTensor& stored, const WeightSpec& spec,
                                   const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tensor, TensorFromArchive(stored, *options.stop));
  return CallTorch(spec.key, [&]() -> absl::StatusOr<at::Tensor> {
    const c10::ScalarType dtype = spec.DtypeIn(options.dtype);
    const at::Tensor view = spec.transposed ? tensor.t() : tensor;
    const bool as_is = options.device.is_cpu() && view.scalar_type() == dtype && view.is_contiguous();
    const at::Tensor loaded =
        as_is ? view : at::empty(view.sizes(), view.options().device(options.device).dtype(dtype));
    DeviceQueue queue(options.device);
    at::Tensor finite;  // of a device: one answer a tensor is waited for
    const auto load = [&](const at::Tensor& to, const at::Tensor& from) -> absl::Status {
      if (!as_is) EIGSVC_RETURN_IF_ERROR(CopyBlock(to, from, queue));
      if (to.is_cpu()) return AllFinite(to) ? absl::OkStatus() : NotFinite(spec.key, tensor.to(dtype));
      const at::Tensor block = at::isfinite(to).all();
      finite = finite.defined() ? finite.logical_and(block) : block;
      return absl::OkStatus();
    };
    EIGSVC_RETURN_IF_ERROR(InBlocks(loaded, view, *options.stop, load));
    if (finite.defined() && !finite.item<bool>()) return NotFinite(spec.key, tensor.to(dtype));
    return loaded;
  });
}

absl::StatusOr<bool> SameValues(const std::string& key, const at::Tensor& a, const at::Tensor& b,
                                const StopToken& stop) {
  return CallTorch(key, [&]() -> absl::StatusOr<bool> {
    if (a.sizes() != b.sizes()) return false;
    bool same = true;
    EIGSVC_RETURN_IF_ERROR(InBlocks(a, b, stop, [&](const at::Tensor& x, const at::Tensor& y) {
      same = same && at::equal(x, y);
      return absl::OkStatus();
    }));
    return same;
  });
}

// Takes weights out of a checkpoint, a layer at a time, that the plan's keys and shapes are known to fit.
class PlanLoader final : public LayerSource {
 public:
  PlanLoader(const Archive& archive, const WeightPlan& plan, const LoadOptions& options)
      : options_(options), shared_names_(SharedNames(plan)) {
    options_.stop = nullptr;  // each load has its own
    for (const WeightSpec& spec : plan) {
      specs_[spec.layer].push_back(spec);
      const auto stored = archive.tensors().find(spec.key);
      if (stored != archive.tensors().end()) stored_.insert(*stored);
    }
  }

  // What stays in memory: what is outside the layers, and what several of them share.
  absl::Status LoadOuter(const StopToken& stop) {
    EIGSVC_RETURN_IF_ERROR(LoadInto(WeightSpec::kOuter, stop, outer_));
    const LoadOptions options = With(stop);
    for (const auto& [layer, specs] : specs_) {
      for (const WeightSpec& spec : specs) {
        const WeightName name(spec.layer, spec.name);
        if (shared_names_.count(name) == 0 || layer == WeightSpec::kOuter) continue;
        EIGSVC_ASSIGN_OR_RETURN(shared_[name], LoadOne(stored_.find(spec.key)->second, spec, options));
      }
    }
    return absl::OkStatus();
  }
  const Weights& outer() const { return outer_; }

  absl::StatusOr<Weights> Load(int layer, const StopToken& stop) const override {
    Weights weights;
    EIGSVC_RETURN_IF_ERROR(LoadInto(layer, stop, weights));
    return weights;
  }

 private:
  LoadOptions With(const StopToken& stop) const {
    LoadOptions options = options_;
    options.stop = &stop;
    return options;
  }

  absl::Status LoadInto(int layer, const StopToken& stop, Weights& weights) const {
    const LoadOptions options = With(stop);
    const auto specs = specs_.find(layer);
    if (specs == specs_.end()) return absl::OkStatus();  // a layer without weights
    for (const WeightSpec& spec : specs->second) {
      const auto stored = stored_.find(spec.key);
      if (!spec.tied_to.empty()) {
        const at::Tensor original = spec.tied_layer == WeightSpec::kOuter
                                        ? outer_[spec.tied_to]
                                        : shared_.at({spec.tied_layer, spec.tied_to});
        if (stored != stored_.end())
          EIGSVC_RETURN_IF_ERROR(CheckTied(stored->second, spec, original, options));
        weights.Set(spec.name, original);
      } else if (const auto shared = shared_.find({layer, spec.name}); shared != shared_.end()) {
        weights.Set(spec.name, shared->second, spec.trained);
      } else {
        EIGSVC_ASSIGN_OR_RETURN(at::Tensor tensor, LoadOne(stored->second, spec, options));
        weights.Set(spec.name, std::move(tensor), spec.trained);
      }
    }
    return absl::OkStatus();
  }

  static absl::Status CheckTied(const ArchiveTensor& stored, const WeightSpec& spec,
                                const at::Tensor& original, const LoadOptions& options) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tensor, LoadOne(stored, spec, options));
    EIGSVC_ASSIGN_OR_RETURN(const bool same, SameValues(spec.key, tensor, original, *options.stop));
    if (same) return absl::OkStatus();
    if (spec.tied_layer != WeightSpec::kOuter) {
      return absl::FailedPreconditionError(absl::StrCat(spec.key, " differs from its original in layer ",
                                                        spec.tied_layer, ", with which it is shared"));
    }
    return absl::FailedPreconditionError(absl::StrCat(
        spec.key,
        " differs from the embedding although the settings tie them (tie_word_embeddings, tie_embeddings or ",
        "tie_weights, as the family calls it); if they are meant to differ, pass it as false in --config"));
  }

  LoadOptions options_;
  std::set<WeightName> shared_names_;
  std::map<int, std::vector<WeightSpec>> specs_;  // by layer
  absl::btree_map<std::string, ArchiveTensor> stored_;
  Weights outer_;
  std::map<WeightName, at::Tensor> shared_;
};

// Loads a layer when it is first asked for, and keeps it.
class KeepingLoader final : public LayerSource {
 public:
  KeepingLoader(std::shared_ptr<const PlanLoader> loader, size_t layers)
      : loader_(std::move(loader)), kept_(layers) {}

  absl::StatusOr<Weights> Load(int layer, const StopToken& stop) const override {
    if (std::optional<Weights> kept = Kept(layer)) return *std::move(kept);
    EIGSVC_ASSIGN_OR_RETURN(Weights loaded, loader_->Load(layer, stop));
    absl::MutexLock lock(&mutex_);
    std::optional<Weights>& place = kept_[static_cast<size_t>(layer)];
    if (!place) place = std::move(loaded);  // else another call was sooner: all share its tensors
    return *place;
  }
  bool keeps() const override { return true; }
  std::optional<Weights> Kept(int layer) const override {
    absl::MutexLock lock(&mutex_);
    return kept_[static_cast<size_t>(layer)];
  }

 private:
  const std::shared_ptr<const PlanLoader> loader_;
  mutable absl::Mutex mutex_;
  mutable std::vector<std::optional<Weights>> kept_ ABSL_GUARDED_BY(mutex_);
};

// FNV-1a: a hash whose value is part of what a seed means, unlike std::hash.
uint64_t HashName(absl::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// In row-major order. `earlier`: what of the same layer is drawn already.
absl::StatusOr<at::Tensor> DrawOne(const WeightSpec& spec, const Weights& earlier, uint64_t seed,
                                   const LoadOptions& options) {
  constexpr int64_t kDrawn = int64_t{1} << 18;
  const at::Tensor drawn =
      at::empty(spec.shape, at::TensorOptions().device(options.device).dtype(spec.DtypeIn(options.dtype)));
  const at::Tensor flat = drawn.view(-1);
  const at::Tensor values = at::empty(std::min(kDrawn, flat.numel()), c10::kDouble);
  Random random({seed, static_cast<uint64_t>(spec.layer + 1), HashName(spec.name)});
  if (spec.draw_tensor) {
    const at::Tensor whole = at::empty(spec.shape, c10::kDouble);
    spec.draw_tensor(random, earlier, {whole.data_ptr<double>(), static_cast<size_t>(whole.numel())});
    drawn.copy_(whole);
    return drawn;
  }
  for (int64_t start = 0; start < flat.numel(); start += kDrawn) {
    EIGSVC_RETURN_IF_ERROR(options.stop->Check());
    const int64_t count = std::min(kDrawn, flat.numel() - start);
    double* data = values.data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) data[i] = spec.draw(random);
    flat.narrow(0, start, count).copy_(values.narrow(0, 0, count));
  }
  return drawn;
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const Archive& archive, const WeightPlan& plan,
                                         const std::vector<std::string>& ignored, const Settings& settings,
                                         const LoadOptions& options) {
  EIGSVC_RETURN_IF_ERROR(CheckKeys(archive, plan, ignored, settings));
  ModelWeights weights;
  for (const WeightSpec& spec : plan) Place(spec, weights);  // as many layers as there are
  if (options.residency == Residency::kNone) return weights;
  auto loader = std::make_shared<PlanLoader>(archive, plan, options);
  EIGSVC_RETURN_IF_ERROR(loader->LoadOuter(*options.stop));
  weights.outer = loader->outer();
  if (options.residency == Residency::kLayer) {
    weights.source = std::move(loader);
    return weights;
  }
  if (options.as_it_runs) {
    weights.source = std::make_shared<KeepingLoader>(std::move(loader), weights.layers.size());
    return weights;
  }
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    EIGSVC_ASSIGN_OR_RETURN(weights.layers[layer], loader->Load(static_cast<int>(layer), *options.stop));
  }
  return weights;
}

std::optional<int64_t> StoredSize(const Archive& archive, const std::string& key, size_t dimension) {
  const auto found = archive.tensors().find(key);
  if (found == archive.tensors().end() || found->second.shape.size() <= dimension) return std::nullopt;
  return found->second.shape[dimension];
}

std::vector<int64_t> StoredShape(const Archive& archive, absl::string_view pattern, int64_t layers,
                                 int64_t elements) {
  for (int64_t layer = 0; layer < layers; ++layer) {
    const auto found = archive.tensors().find(absl::StrReplaceAll(pattern, {{"#", absl::StrCat(layer)}}));
    if (found == archive.tensors().end()) continue;
    const std::vector<int64_t>& shape = found->second.shape;
    const auto times = [](int64_t product, int64_t size) { return product * size; };
    if (std::accumulate(shape.begin(), shape.end(), int64_t{1}, times) == elements) return shape;
  }
  return {};
}

absl::StatusOr<ModelWeights> InitializeWeights(const WeightPlan& plan, const Settings& settings,
                                               uint64_t seed, const LoadOptions& options) {
  constexpr double kMaxParameters = 8589934592;  // 2^33
  double parameters = 0;                         // a double cannot overflow here
  for (const WeightSpec& spec : plan) {
    if (!spec.tied_to.empty()) continue;
    double count = 1;
    for (const int64_t size : spec.shape) count *= static_cast<double>(size);
    parameters += count;
  }
  if (parameters > kMaxParameters) {
    return absl::InvalidArgumentError(
        absl::StrCat("these settings make a model of ", parameters,
                     " parameters; at most 2^33 are initialised; the largest of their numbers: ",
                     LargestNumbers(settings)));
  }
  const double bytes = parameters * static_cast<double>(c10::elementSize(options.dtype));
  if (bytes > static_cast<double>(options.max_weight_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "these settings make a model of ", parameters, " parameters and ", bytes, " bytes; at most ",
        options.max_weight_bytes, " bytes are allowed (--model-memory-bytes); the largest of their numbers: ",
        LargestNumbers(settings)));
  }
  ModelWeights weights;
  for (const WeightSpec& spec : plan) {
    if (!spec.tied_to.empty()) {
      // A copy: placing it may move what it was found in.
      const at::Tensor original = spec.tied_layer == WeightSpec::kOuter
                                      ? weights.outer[spec.tied_to]
                                      : weights.layers[spec.tied_layer][spec.tied_to];
      Place(spec, weights).Set(spec.name, original);
      continue;
    }
    EIGSVC_ASSIGN_OR_RETURN(at::Tensor tensor, CallTorch(spec.name, [&] {
                              return DrawOne(spec, Place(spec, weights), seed, options);
                            }));
    Place(spec, weights).Set(spec.name, std::move(tensor), spec.trained);
  }
  return weights;
}

}  // namespace eigsvc
