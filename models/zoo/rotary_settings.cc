#include "models/zoo/rotary_settings.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace eigsvc {
namespace {

using Kind = RotaryScaling::Kind;

// A parameter under all of its names, the canonical one first.
class RotaryNames {
 public:
  // `outside`: names at the top level.
  RotaryNames(const RotaryDefaults& defaults, const std::vector<absl::string_view>& parameters,
              const std::vector<std::string>& outside = {}) {
    const bool nested = !defaults.layer_type.empty();
    for (const absl::string_view parameter : parameters) {
      names_.push_back(absl::StrCat("rope_parameters.", defaults.layer_type, nested ? "." : "", parameter));
    }
    for (const absl::string_view parameter : parameters) {
      if (defaults.layer_type != "sliding_attention")
        names_.push_back(absl::StrCat("rope_scaling.", parameter));
    }
    names_.insert(names_.end(), outside.begin(), outside.end());
    views_.assign(names_.begin(), names_.end());
  }
  RotaryNames(const RotaryNames&) = delete;
  RotaryNames& operator=(const RotaryNames&) = delete;

  operator SettingsReader::Names() const { return views_; }

 private:
  std::vector<std::string> names_;
  std::vector<absl::string_view> views_;
};

RotaryNames BaseNames(const RotaryDefaults& defaults) {
  return RotaryNames(defaults, {"rope_theta"}, {"rope_theta", "rotary_emb_base"});
}

std::optional<Kind> KindOf(const std::string& type) {
  if (type == "default") return Kind::kNone;
  if (type == "linear") return Kind::kLinear;
  if (type == "dynamic") return Kind::kDynamic;
  if (type == "yarn") return Kind::kYarn;
  if (type == "longrope" || type == "su") return Kind::kLongRope;
  if (type == "llama3") return Kind::kLlama3;
  return std::nullopt;
}

// Quotients of two such numbers are floats.
bool Positive(double value) { return value >= 1e-15 && value <= 1e15; }
bool Positive(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return Positive(value); });
}

class ScalingReader {
 public:
  ScalingReader(SettingsReader& reader, const RotaryDefaults& defaults, std::string type)
      : reader_(reader), defaults_(defaults), type_(std::move(type)) {}

  RotaryScaling Read(Kind kind, int64_t size) {
    RotaryScaling scaling;
    scaling.kind = kind;
    const double trained = reader_.Real({"max_position_embeddings"}, defaults_.trained_positions);
    if (kind != Kind::kLinear) scaling.original_positions = trained;
    if (kind == Kind::kYarn || kind == Kind::kLongRope || kind == Kind::kLlama3) {
      // Phi-3 states it outside, where it wins.
      scaling.original_positions = reader_.Has({"original_max_position_embeddings"})
                                       ? reader_.Real({"original_max_position_embeddings"})
                                       : Real("original_max_position_embeddings", trained);
      Need(Positive(scaling.original_positions),
           "original_max_position_embeddings (without it, max_position_embeddings) within 1 and 1e15");
    }
    switch (kind) {
      case Kind::kNone:
        break;
      case Kind::kLinear:
        scaling.factor = Real("factor");
        break;
      case Kind::kDynamic:
        scaling.factor = Real("factor");
        Need(Positive(trained), "max_position_embeddings within 1 and 1e15");
        Need(size > 2, "heads with more than two turned dimensions", defaults_.head_fields);
        break;
      case Kind::kYarn:
        ReadYarn(trained, scaling);
        break;
      case Kind::kLongRope:
        ReadLongRope(trained, size / 2, scaling);
        break;
      case Kind::kLlama3:
        scaling.factor = Real("factor");
        scaling.low_factor = Real("low_freq_factor");
        scaling.high_factor = Real("high_freq_factor");
        Need(Positive(scaling.low_factor) && Positive(scaling.high_factor) &&
                 scaling.high_factor > scaling.low_factor,
             "low_freq_factor < high_freq_factor, both within 1e-15 and 1e15");
        break;
    }
    Need(Positive(scaling.factor), "factor > 0, within 1e15", stretch_);
    Need(Positive(scaling.attention_factor), "attention_factor > 0, within 1e15", stretch_);
    return scaling;
  }

 private:
  void ReadYarn(double trained, RotaryScaling& scaling) {
    scaling.factor = Stretch(trained, scaling.original_positions);
    const double mscale = Real("mscale", 0), all = Real("mscale_all_dim", 0);
    const double magnitude = mscale != 0 && all != 0
                                 ? YarnMagnitude(scaling.factor, mscale) / YarnMagnitude(scaling.factor, all)
                                 : YarnMagnitude(scaling.factor);
    scaling.attention_factor = Real("attention_factor", magnitude);
    scaling.beta_fast = Real("beta_fast", 32);
    scaling.beta_slow = Real("beta_slow", 1);
    if (scaling.beta_fast == 0) scaling.beta_fast = 32;
    if (scaling.beta_slow == 0) scaling.beta_slow = 1;
    Need(scaling.beta_slow > 0 && scaling.beta_fast >= scaling.beta_slow, "0 < beta_slow <= beta_fast");
    scaling.truncate = reader_.Bool(RotaryNames(defaults_, {"truncate"}), true);
  }

  void ReadLongRope(double trained, int64_t count, RotaryScaling& scaling) {
    const double factor = Stretch(trained, scaling.original_positions);
    Need(scaling.original_positions > 1, "original_max_position_embeddings > 1");
    scaling.attention_factor =
        Real("attention_factor", LongRopeMagnitude(factor, scaling.original_positions));
    scaling.short_factors = reader_.Reals(RotaryNames(defaults_, {"short_factor"}), {});
    scaling.long_factors = reader_.Reals(RotaryNames(defaults_, {"long_factor"}), {});
    const auto good = [&](const std::vector<double>& factors) {
      return static_cast<int64_t>(factors.size()) == count && Positive(factors);
    };
    Need(good(scaling.short_factors) && good(scaling.long_factors),
         absl::StrCat("short_factor and long_factor of ", count, " positive numbers each"),
         defaults_.head_fields);
  }

  // Where it is not stated, it is by how much the context grew.
  double Stretch(double trained, double original) {
    stretch_ = {"max_position_embeddings", "original_max_position_embeddings"};
    const double grown = trained / original;
    return Real("factor", std::isfinite(grown) ? grown : 0);
  }

  double Real(absl::string_view parameter, std::optional<double> fallback = std::nullopt) {
    return reader_.Real(RotaryNames(defaults_, {parameter}), fallback);
  }

  void Need(bool good, absl::string_view what, const std::vector<absl::string_view>& fields = {}) {
    if (good || !reader_.status().ok()) return;
    reader_.Fail(reader_.Naming(
        absl::InvalidArgumentError(absl::StrCat("rotary scaling \"", type_, "\" needs ", what)), fields));
  }

  SettingsReader& reader_;
  const RotaryDefaults& defaults_;
  const std::string type_;
  std::vector<absl::string_view> stretch_;  // what a factor that is not stated comes from
};

// Parameters that are nested by the kind of layer where the family's are not, or the reverse.
void RefuseOtherNesting(SettingsReader& reader, const RotaryDefaults& defaults) {
  const bool nested = !defaults.layer_type.empty();
  const std::vector<absl::string_view> others =
      nested ? std::vector<absl::string_view>{"rope_parameters.rope_type", "rope_parameters.rope_theta"}
             : std::vector<absl::string_view>{"rope_parameters.full_attention",
                                              "rope_parameters.sliding_attention"};
  for (const absl::string_view other : others) {
    if (!reader.Has({other})) continue;
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "setting \"", other, "\": the rotary parameters of this family are ",
        nested ? "given for full_attention and sliding_attention each" : "the same in all of its layers")));
  }
}

int64_t ReadSize(SettingsReader& reader, const RotaryDefaults& defaults) {
  const RotaryNames names(defaults, {"partial_rotary_factor"}, {"partial_rotary_factor", "rotary_pct"});
  const double share = reader.Real(names, defaults.share == 0 ? 1 : defaults.share);
  const int64_t size = WholePart(static_cast<double>(defaults.head_size) * share);
  if (!reader.status().ok()) return 0;
  if (defaults.share == 0 && share != 1) {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"", reader.Spelt(names), "\" is ", share, "; this family turns whole heads")));
  } else if (!(share > 0 && share <= 1) || size < 2 || size % 2 != 0) {
    std::vector<absl::string_view> fields = defaults.head_fields;
    fields.push_back(reader.Spelt(names));
    reader.Fail(reader.Disagree(absl::StrCat("a head of ", defaults.head_size, " dimensions of which ", size,
                                             " are rotated cannot be rotated in pairs"),
                                fields));
  }
  return size;
}

}  // namespace

RotarySpec ReadRotary(SettingsReader& reader, const RotaryDefaults& defaults) {
  RotarySpec spec;
  RefuseOtherNesting(reader, defaults);
  spec.size = ReadSize(reader, defaults);
  const RotaryNames bases = BaseNames(defaults), types(defaults, {"rope_type", "type"});
  spec.base = reader.Real(bases, defaults.base);
  const std::string type = reader.Text(types, "default");
  if (!reader.status().ok()) return spec;
  if (!(spec.base > 1)) {
    reader.Fail(absl::InvalidArgumentError(
        absl::StrCat("setting \"", reader.Spelt(bases), "\" is ", spec.base, "; it must be above 1")));
  }
  const std::optional<Kind> kind = KindOf(type);
  if (!kind) {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"", reader.Spelt(types), "\" is \"", type,
                     "\"; supported: default, linear, dynamic, yarn, longrope, llama3")));
  } else if (*kind != Kind::kNone && reader.status().ok()) {
    spec.scaling = ScalingReader(reader, defaults, type).Read(*kind, spec.size);
    reader.Blame({reader.Spelt(types)});
  }
  return spec;
}

bool StatesRotaryBase(const Settings& settings) {
  const SettingsReader reader(settings);
  RotaryDefaults nested;
  nested.layer_type = "full_attention";
  return reader.Has(BaseNames({})) || reader.Has(BaseNames(nested));
}

}  // namespace eigsvc
