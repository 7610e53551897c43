// Convention: which of several meanings of "the eigenvalues" a result holds. Every result states it
// (ARCHITECTURE.md section 4). A request's convention is resolved against what the model supports before it
// runs; families read the resolved one.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// Where a normaliser lives: in the state (dsf: Λ_i = η_{i-1}/η_i; arXiv 2405.15731) or in the output (raw:
// what the recurrence multiplies its state with). kDefault, in requests only: dsf where the forward pass
// divides by a normaliser, else raw.
enum class Gauge { kDefault, kDsf, kRaw };

// Where a rotation of q and k lives: in input and output (io: λ real) or in the state (λ = γ·e^{±iθ}).
enum class Rotation { kDefault, kIo, kState };

// Where the analysis that was released with arXiv 2510.09379 (analysis/eval_eig.py) departs from the model's
// own transitions, switch by switch. None: EXACT. Any: PAPER_COMPAT.
struct Departures {
  bool layer_output = false;      // E1: a layer's projection is applied to its block's output, not its input
  bool skip_norm = false;         // E2: the norm before the projection is left out
  bool unscaled_scores = false;   // E3: softmax scores lack 1/√d
  bool masked_as_zero = false;    // E4: masked scores are 0 instead of -∞
  bool skip_convolution = false;  // E5: no convolution and SiLU on q and k of softmax and linear attention
  bool count_padding = false;     // E6: padding is counted
  bool clamp_zero = false;        // E7: a normaliser of 0 becomes 2e-23
  bool one_channel = false;       // E8: S4's channel 1 alone, its matrix formed and solved in complex64
  bool closed_bins = false;       // E9: bins are closed at both ends
  bool signed_phase = false;      // E10: bins of the phase miss the negative ones

  static Departures All();
  bool Any() const { return *this != Departures(); }
  bool operator==(const Departures&) const = default;
};

struct Convention {
  Departures departures;
  Gauge gauge = Gauge::kDefault;
  Rotation rotation = Rotation::kDefault;
  bool operator==(const Convention&) const = default;
};

// What a model can report. The first of each list is its default.
struct ConventionSupport {
  std::vector<Gauge> gauges = {Gauge::kRaw};
  std::vector<Rotation> rotations = {Rotation::kIo};
  Departures departures;  // those that mean something for it; none: it knows no PAPER_COMPAT
};

absl::string_view DefinitionName(const Departures& departures);         // "EXACT" or "PAPER_COMPAT"
absl::string_view GaugeName(Gauge gauge);                               // "dsf", "raw"; "" for the default
absl::string_view RotationName(Rotation rotation);                      // "io", "state"; "" for the default
std::vector<std::string> DepartureNames(const Departures& departures);  // "E1", ... in order

// `definition`: "EXACT" (also when empty) or "PAPER_COMPAT"; `departures`: "E1".."E10", of PAPER_COMPAT only,
// none named: all. `gauge` and `rotation`: their names or "". INVALID_ARGUMENT naming the field, its value
// and what is allowed.
absl::StatusOr<Convention> ParseConvention(absl::string_view definition,
                                           const std::vector<std::string>& departures,
                                           absl::string_view gauge, absl::string_view rotation);

// No kDefault is left in the result; all departures stand for all those that mean something for the model.
// INVALID_ARGUMENT when the model (named `family`) cannot report what was asked, listing what it can.
absl::StatusOr<Convention> ResolveConvention(const Convention& asked, const ConventionSupport& support,
                                             absl::string_view family);

}  // namespace eigsvc
