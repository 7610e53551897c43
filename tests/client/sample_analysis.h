// A made-up analysis with known numbers: two layers of two Mamba-2 heads.
#pragma once

#include "eigsvc/v1/analysis.pb.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc::cli::testing {

// As the server sends a spectrum.
v1::SiteSpectrum ToProto(int layer, const std::string& mixer, int unit, const Spectrum& spectrum);

v1::Model SampleModel();
// `slow`: half-lives of hundreds of steps (trained) instead of a few (untrained).
v1::AnalysisResult SampleResult(bool slow = true);
v1::AnalysisProgress SampleProgress(int64_t done, int64_t total);
// Finished, with the two above.
v1::Analysis SampleAnalysis(bool slow = true);

}  // namespace eigsvc::cli::testing
