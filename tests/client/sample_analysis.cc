#include "tests/client/sample_analysis.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "server/inspection/spectrum_summary.h"

namespace eigsvc::cli::testing {
namespace {

void FillBins(const std::vector<uint64_t>& bins, google::protobuf::RepeatedField<int32_t>* indices,
              google::protobuf::RepeatedField<uint64_t>* counts) {
  for (size_t b = 0; b < bins.size(); ++b) {
    if (bins[b] == 0) continue;
    indices->Add(static_cast<int32_t>(b));
    counts->Add(bins[b]);
  }
}

// Dyadic numbers only, so that the sums and with them the golden files have the same digits everywhere.
Spectrum Decays(int fastest_exponent, int slowest_exponent) {
  std::vector<double> values;
  for (int e = slowest_exponent; e <= fastest_exponent; ++e) {
    for (int i = 0; i < 32; ++i) {
      const int copies = 1 + std::min(e - slowest_exponent, fastest_exponent - e);
      values.insert(values.end(), copies, -std::ldexp(1.0 + i / 32.0, e));
    }
  }
  Spectrum spectrum;
  spectrum.Add(values, 1e-7);
  return spectrum;
}

}  // namespace

v1::SiteSpectrum ToProto(int layer, const std::string& mixer, int unit, const Spectrum& spectrum) {
  v1::SiteSpectrum site;
  site.mutable_site()->set_layer(layer);
  site.mutable_site()->set_mixer(mixer);
  site.mutable_site()->set_unit_kind(v1::UNIT_KIND_HEAD);
  site.mutable_site()->set_unit(unit);
  site.add_multiplicities(mixer == "attention" ? 0 : 1024);
  *site.mutable_summary() = SummaryProto(spectrum);
  v1::SpectrumBins& bins = *site.mutable_bins();
  FillBins(spectrum.below_1(), bins.mutable_below_1_index(), bins.mutable_below_1_count());
  FillBins(spectrum.beyond_1(), bins.mutable_beyond_1_index(), bins.mutable_beyond_1_count());
  bins.set_zero_count(static_cast<int64_t>(spectrum.zeros()));
  bins.set_one_count(static_cast<int64_t>(spectrum.ones()));
  return site;
}

v1::Model SampleModel() {
  v1::Model model;
  model.set_family("mamba2");
  model.set_layout("paper");
  model.set_layers(2);
  model.set_parameters(70144);
  model.set_width(64);
  model.set_vocab_size(64);
  model.set_settings_json(R"({"d_model":64,"n_layers":2})");
  model.add_gauges("raw");
  model.add_rotations("io");
  model.set_checkpoint_sha256("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
  model.set_dtype("float32");
  model.set_residency("all");
  model.set_device("cpu");
  return model;
}

v1::AnalysisResult SampleResult(bool slow) {
  v1::AnalysisResult result;
  v1::Score& score = *result.mutable_score();
  score.set_metric("accuracy");
  score.set_value(slow ? 0.998125 : 0.015625);
  score.set_n(3000);
  score.set_ci95_low(slow ? 0.99725 : 0.0140625);
  score.set_ci95_high(slow ? 0.99890625 : 0.0171875);
  score.set_interval("bootstrap over examples");
  const int shift = slow ? -6 : 0;
  *result.add_sites() = ToProto(0, "mamba2", 0, Decays(1 + shift, -4 + shift));
  *result.add_sites() = ToProto(0, "mamba2", 1, Decays(3 + shift, -2 + shift));
  Spectrum second = Decays(0 + shift, -6 + shift);
  const std::vector<double> atoms = {0.0, 0.0, 0.0, -std::numeric_limits<double>::infinity(), 0.25, 3.0};
  second.Add(atoms, 1e-7);
  *result.add_sites() = ToProto(1, "mamba2", 0, second);
  *result.add_sites() = ToProto(1, "mamba2", 1, Decays(2 + shift, 0 + shift));
  v1::TaskSpec& task = *result.mutable_task();
  task.set_name("mqar");
  task.set_seed(7);
  task.set_split("test");
  task.set_parameters_json(R"({"length":64,"pairs":4})");
  result.set_examples(3000);
  result.set_tokens(192000);
  for (const v1::SiteSpectrum& site : result.sites())
    result.set_eigenvalues(result.eigenvalues() + site.summary().count());
  result.set_definition("EXACT");
  result.set_gauge("raw");
  result.set_rotation("io");
  result.mutable_forward_time()->set_nanos(500'000'000);
  result.mutable_analysis_time()->set_nanos(250'000'000);
  result.mutable_total_time()->set_seconds(1);
  (*result.mutable_versions())["eigsvc-worker"] = "0.1.0";
  (*result.mutable_versions())["libtorch"] = "2.13.0";
  result.set_batch_size(64);
  return result;
}

v1::AnalysisProgress SampleProgress(int64_t done, int64_t total) {
  const v1::AnalysisResult result = SampleResult();
  v1::AnalysisProgress progress;
  progress.set_examples_done(done);
  progress.set_examples_total(total);
  progress.set_eigenvalues(1000 * done);
  *progress.mutable_score() = result.score();
  *progress.mutable_sites() = result.sites();
  progress.set_phase("run");
  return progress;
}

v1::Analysis SampleAnalysis(bool slow) {
  v1::Analysis analysis;
  analysis.set_analysis_id("analysis-1");
  analysis.mutable_spec()->mutable_checkpoint()->set_local_path("/models/mamba2.pt");
  analysis.mutable_spec()->mutable_task()->set_name("mqar");
  if (!slow) analysis.mutable_spec()->mutable_checkpoint()->set_twin_seed(1);
  *analysis.mutable_model() = SampleModel();
  if (!slow) analysis.mutable_model()->set_initial_seed(1);
  *analysis.mutable_result() = SampleResult(slow);
  analysis.set_state(v1::JOB_STATE_SUCCEEDED);
  return analysis;
}

}  // namespace eigsvc::cli::testing
