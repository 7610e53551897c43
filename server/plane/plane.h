// Pictures of the eigenvalues of one analysis, for dashboards that cannot draw a density over the complex
// plane. No colours here: a picture holds levels, png.h gives them colours. Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "eigsvc/v1/spectrum.pb.h"
#include "google/protobuf/repeated_ptr_field.h"

namespace eigsvc {

enum class PlaneView { kPlane, kUnrolled };

// Row-major from the top left. A level of 1 to 253 is the density there, on a logarithmic scale from the
// least to the greatest of the picture; 0 is nothing, and the rest are lines, drawn where nothing else is.
struct Picture {
  static constexpr uint8_t kDensest = 253, kAxis = 254, kCircle = 255;
  int width = 0, height = 0;
  std::vector<uint8_t> levels;
};

// kPlane: 561 × 561 pixels of the plane from -R to R with the unit circle and the axes; R is 1.15, or up to 4
// where eigenvalues are that large; what is beyond is not shown. Density is eigenvalues a pixel. Where λ is
// not positive real the picture is as fine as the spectrum's grid: octaves of |log|λ|| by 64 phases; |log|λ||
// < 2^-6 is one ring on either side of the circle and |λ| < e^-4 one disc. Positive real λ are a bar of five
// rows on the axis.
//
// kUnrolled: 512 × 512. Across arg λ from -π to π; upwards λ = 0, then |λ| < 1 by octaves of the timescale
// -1/ln|λ|, a line at |λ| = 1, then |λ| > 1 by octaves of 1/ln|λ|. Density is eigenvalues a cell.
//
// A site of conjugate pairs shows both of each. REQUIRES the order and ranges of SpectrumBins.
Picture DrawPlane(const std::vector<const v1::SiteSpectrum*>& sites, PlaneView view);

}  // namespace eigsvc
