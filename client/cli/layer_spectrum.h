// Spectra of the contract as models/spectrum's, and the heads of a layer merged into one.
#pragma once

#include <string>
#include <vector>

#include "eigsvc/v1/spectrum.pb.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc::cli {

// Counts are exact (shares times count, which the server divided from integers); moments are to double
// precision. Bins that a hostile server numbers out of range are dropped.
Spectrum ToSpectrum(const v1::SiteSpectrum& site);

struct LayerSpectrum {
  int layer = 0;
  std::string mixer;
  v1::UnitKind unit_kind = v1::UNIT_KIND_UNSPECIFIED;
  int units = 0;
  Spectrum spectrum;
};

// One entry a (layer, mixer), in that order.
std::vector<LayerSpectrum> MergeLayers(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites);

// "head", "channel" or "layer".
std::string UnitName(v1::UnitKind kind);

}  // namespace eigsvc::cli
