#include "server/plane/plane_request.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "server/plane/plane.h"
#include "server/plane/plane_target.h"
#include "server/plane/png.h"

namespace eigsvc {
namespace {

absl::StatusOr<std::string> Latest(const Jobs& jobs) {
  std::string token;
  do {
    EIGSVC_ASSIGN_OR_RETURN(const Page<v1::Analysis> page, jobs.ListAnalyses(1000, token));
    for (const v1::Analysis& analysis : page.records) {
      if (analysis.state() == v1::JOB_STATE_SUCCEEDED) return analysis.analysis_id();
    }
    token = page.next_page_token;
  } while (!token.empty());
  return absl::NotFoundError("no analysis has succeeded yet, or all were forgotten");
}

}  // namespace

absl::StatusOr<std::string> PlanePng(const Jobs& jobs, absl::string_view target) {
  EIGSVC_ASSIGN_OR_RETURN(PlaneTarget request, ParsePlaneTarget(target));
  if (request.id == "latest") {
    EIGSVC_ASSIGN_OR_RETURN(request.id, Latest(jobs));
  }
  EIGSVC_ASSIGN_OR_RETURN(const v1::Analysis analysis, jobs.GetAnalysis(request.id));
  const auto& sites = analysis.has_result() ? analysis.result().sites() : analysis.progress().sites();
  std::vector<const v1::SiteSpectrum*> chosen;
  std::set<int> layers;
  for (const v1::SiteSpectrum& site : sites) {
    layers.insert(site.site().layer());
    if (!request.layer.has_value() || site.site().layer() == *request.layer) chosen.push_back(&site);
  }
  if (layers.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("analysis ", request.id, " has no eigenvalues to show; wait for it, or see its error"));
  }
  if (chosen.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layer ", *request.layer, " has no eigenvalues; these have: ", absl::StrJoin(layers, ", ")));
  }
  std::string png = EncodePng(DrawPlane(chosen, request.view));
  if (png.empty()) return absl::InternalError("the picture could not be written; report it");
  return png;
}

}  // namespace eigsvc
