// The statistics of a spectrum in the words of the public contract: by the worker of each site, by the client
// of the layers it merges. Thread-safe: a pure function.
#pragma once

#include "eigsvc/v1/spectrum.pb.h"
#include "models/base/convention.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc {

// `departures` E9 and E10 choose the bins.
v1::SpectrumSummary SummaryProto(const Spectrum& spectrum, const Departures& departures = {});

}  // namespace eigsvc
