#include "server/plane/plane_request.h"

#include <optional>
#include <set>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "server/plane/plane.h"
#include "server/plane/png.h"

namespace eigsvc {
namespace {

struct Request {
  std::string id;
  PlaneView view = PlaneView::kPlane;
  std::optional<int> layer;
};

absl::StatusOr<Request> Parse(absl::string_view target) {
  Request request;
  const std::vector<absl::string_view> parts = absl::StrSplit(target, absl::MaxSplits('?', 1));
  absl::string_view path = parts[0];
  if (!absl::ConsumePrefix(&path, "/v1/analyses/") || !absl::ConsumeSuffix(&path, "/plane.png") ||
      path.empty()) {
    return absl::NotFoundError("not found; there is /v1/analyses/{id}/plane.png?view=plane|unrolled&layer=N");
  }
  request.id = std::string(path);
  if (parts.size() < 2) return request;
  for (const absl::string_view parameter : absl::StrSplit(parts[1], '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(parameter, absl::MaxSplits('=', 1));
    const auto& [name, value] = words;
    int layer = 0;
    if (name == "t") continue;  // a page shows another address when time has passed, so browsers ask again
    if (name == "view" && (value == "plane" || value == "unrolled")) {
      request.view = value == "plane" ? PlaneView::kPlane : PlaneView::kUnrolled;
    } else if (name == "layer" && value.empty()) {
      request.layer.reset();  // a form left empty
    } else if (name == "layer" && absl::SimpleAtoi(value, &layer) && layer >= 0) {
      request.layer = layer;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", ToUtf8(parameter, 64),
                                                     "\" is no parameter of it; there are view=plane, "
                                                     "view=unrolled and layer=N, N from 0"));
    }
  }
  return request;
}

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
  EIGSVC_ASSIGN_OR_RETURN(Request request, Parse(target));
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
