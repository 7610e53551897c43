// The linear time-invariant models of arXiv 2510.09379 as its authors' repository writes them in JAX: S4, S5
// and LRU, and the LRU of minimal-LRU, which it follows.
#include "models/zoo/paper_ssm.h"

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/lru.h"
#include "models/mixers/s4.h"
#include "models/mixers/s5.h"
#include "models/zoo/jax_stack.h"

namespace eigsvc {
namespace {

constexpr int64_t kLargestSsm = int64_t{1} << 20;
using MakeMixer = std::function<std::unique_ptr<const Module>()>;

struct Range {
  double low = 0, high = 0;
};

absl::Status CheckRange(absl::string_view low_name, absl::string_view high_name, const Range& range,
                        double least, double most) {
  if (range.low >= least && range.low <= range.high && range.high <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("settings ", low_name, " = ", range.low, " and ", high_name,
                                                 " = ", range.high, " must rise within [", least, ", ", most,
                                                 "]"));
}

absl::StatusOr<Range> ReadSteps(SettingsReader& reader) {
  const Range steps = {reader.Real({"dt_min"}, 0.001), reader.Real({"dt_max"}, 0.1)};
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(CheckRange("dt_min", "dt_max", steps, 1e-12, 1e6));
  return steps;
}

absl::StatusOr<MakeMixer> ReadLru(SettingsReader& reader, const JaxFrame& frame, int64_t width) {
  LruSpec spec;
  spec.width = width;
  spec.order = reader.IntWithin({"state_dim", "d_hidden"}, 1, kLargestSsm,
                                StoredSsmSize(frame, "nu_log", 0).value_or(32));
  const Range radii = {reader.Real({"r_min"}, 0.0), reader.Real({"r_max"}, 1.0)};
  spec.phase = reader.Positive({"max_phase"}, 6.28);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(CheckRange("r_min", "r_max", radii, 0, 1));
  spec.least = radii.low;
  spec.most = radii.high;
  return MakeMixer([spec] { return std::make_unique<Lru>("seq.", spec); });
}

absl::StatusOr<MakeMixer> ReadS4(SettingsReader& reader, const JaxFrame& frame, int64_t width) {
  S4Spec spec;
  spec.all_states = true;
  spec.storage.width = width;
  spec.storage.order =
      reader.IntWithin({"state_dim"}, 1, 4096, StoredSsmSize(frame, "Lambda_re", 0).value_or(16));
  // The kernel's length is that of the sequences it was trained on, and no weight tells it.
  spec.length = reader.IntWithin({"seq_len", "l_max"}, 1, kLargestSsm,
                                 frame.archive == nullptr ? std::optional<int64_t>(1024) : std::nullopt);
  spec.normal_output =
      reader.Choice({"C_init"}, {"complex_normal", "lecun_normal"}, "complex_normal") == "complex_normal";
  EIGSVC_ASSIGN_OR_RETURN(const Range steps, ReadSteps(reader));
  spec.storage.least_step = steps.low;
  spec.storage.largest_step = steps.high;
  return MakeMixer([spec] { return std::make_unique<S4>("seq.", spec); });
}

absl::StatusOr<MakeMixer> ReadS5(SettingsReader& reader, const JaxFrame& frame, int64_t width) {
  S5Spec spec;
  spec.width = width;
  spec.conjugate_pairs = reader.Bool({"conj_sym"}, true);
  const int64_t stored = spec.conjugate_pairs ? 2 : 1;  // states that one of the file stands for
  const std::optional<int64_t> found = StoredSsmSize(frame, "Lambda_re", 0);
  const int64_t states = reader.IntWithin({"state_dim"}, stored, kLargestSsm,
                                          found ? *found * stored : int64_t{32}, {"conj_sym"});
  spec.blocks = reader.IntWithin({"num_blocks"}, 1, kLargestSsm, 1);
  spec.clip = reader.Bool({"clip_eigs"}, false);
  const bool both_ways = reader.Bool({"bidirectional"}, false);
  spec.bilinear = reader.Choice({"discretization"}, {"zoh", "bilinear"}, "zoh") == "bilinear";
  const std::string output =
      reader.Choice({"C_init"}, {"lecun_normal", "trunc_standard_normal", "complex_normal"}, "lecun_normal");
  EIGSVC_ASSIGN_OR_RETURN(const Range steps, ReadSteps(reader));
  spec.order = states / stored;
  spec.least_step = steps.low;
  spec.largest_step = steps.high;
  if (states % stored != 0 || spec.order % spec.blocks != 0) {
    return reader.Disagree(absl::StrCat("the state does not divide into blocks",
                                        spec.conjugate_pairs ? " of conjugate pairs" : ""),
                           {"state_dim", "num_blocks", "conj_sym"});
  }
  if (both_ways) {
    return absl::FailedPreconditionError(
        "setting \"bidirectional\" is true: such a model has no state that runs forward alone; false is "
        "supported");
  }
  if (output == "trunc_standard_normal") {
    spec.output_draw = S5Spec::OutputDraw::kTruncated;
  } else if (output == "complex_normal") {
    spec.output_draw = S5Spec::OutputDraw::kComplexNormal;
  }
  return MakeMixer([spec] { return std::make_unique<S5>("seq.", spec); });
}

using ReadMixer = absl::StatusOr<MakeMixer> (*)(SettingsReader&, const JaxFrame&, int64_t);

absl::StatusOr<StackSpec> PaperSsmSpec(const std::string& family, const std::string& layout,
                                       const Settings& settings, const Settings& typed,
                                       const Archive* archive, std::optional<int64_t> layers) {
  SettingsReader reader(settings);
  const bool minimal = layout == "minimal-lru";
  const JaxFrame frame{archive, minimal ? "normalization" : "normalize", !minimal};
  const ReadMixer read = family == "lru" ? ReadLru : family == "s4" ? ReadS4 : ReadS5;
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec, JaxStack(reader, frame, layers, [&](int64_t width) {
                            return read(reader, frame, width);
                          }));
  if (minimal && reader.IntWithin({"multidim"}, 1, kLargestSsm, 1) != 1) {
    return absl::FailedPreconditionError(
        "setting \"multidim\" is above 1 (several answers a step); 1 is supported");
  }
  if (family == "s4") {
    EIGSVC_ASSIGN_OR_RETURN(spec.description.max_positions, reader.Resolved(family, layout).Int("seq_len"));
  }
  reader.Text({"layer"}, family);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, family));
  spec.description.family = family;
  spec.description.layout = layout;
  spec.description.settings = reader.Resolved(family, layout);
  // The released analysis takes S5 for discretised by ZOH, and as it is stored.
  const Settings& resolved = spec.description.settings;
  const bool as_analysed =
      family != "s5" || (*resolved.Text("discretization") == "zoh" && !*resolved.Bool("clip_eigs"));
  if (!minimal && as_analysed) {
    Departures& departures = spec.description.conventions.departures;
    departures.one_channel = family == "s4";
    departures.closed_bins = departures.signed_phase = true;
  }
  return spec;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadPaperSsm(const Archive& archive,
                                                                  const Detection& detection,
                                                                  const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec, PaperSsmSpec(detection.family, detection.layout, detection.settings,
                                                       detection.typed, &archive, detection.layers));
  return LoadStack(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializePaperSsm(const std::string& family,
                                                                        const std::string& layout,
                                                                        const Settings& settings,
                                                                        uint64_t seed,
                                                                        const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec,
                          PaperSsmSpec(family, layout, settings, settings, nullptr, std::nullopt));
  return InitializeStack(std::move(spec), seed, options);
}

namespace {

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeLru(const Settings& settings, uint64_t seed,
                                                                   const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "paper"));
  return InitializePaperSsm("lru", layout, settings, seed, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeS5(const Settings& settings, uint64_t seed,
                                                                  const LoadOptions& options) {
  return InitializePaperSsm("s5", "paper", settings, seed, options);
}

}  // namespace

FamilyEntry LruFamily() {
  return {
      "lru",
      {"paper", "minimal-lru"},
      "LRU: one diagonal complex state for all channels of a layer",
      "λ = exp(-e^ν + i·e^θ), constant, N complex values a layer in the unit disc, conjugates not counted",
      /*trainable=*/true,
      LoadPaperSsm,
      InitializeLru,
      "arXiv 2303.06349"};
}

FamilyEntry S5Family() {
  return {
      "s5",
      {"paper"},
      "S5 as arXiv 2510.09379's code has it: one diagonal complex state for all channels of a layer",
      "λ = exp(Δ·Λ) or its bilinear map, constant, complex, one of each conjugate pair stored; above 1 where "
      "Re Λ > 0",
      /*trainable=*/true,
      LoadPaperSsm,
      InitializeS5,
      "arXiv 2208.04933"};
}

}  // namespace eigsvc
