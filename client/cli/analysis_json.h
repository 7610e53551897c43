// JSON of analyses: the object scripts rely on, and the events of -o ndjson. Doubles are written with the
// shortest digits that read back the same; NaN and infinities are null.
#pragma once

#include <nlohmann/json.hpp>

#include "client/cli/report.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/spectrum.pb.h"
#include "eigsvc/v1/training.pb.h"

namespace eigsvc::cli {

using Json = nlohmann::ordered_json;

inline constexpr int kSchemaVersion = 1;

// The documented object of one analysis that succeeded, with "twin" when there is one.
Json ReportObject(const Report& report);
Json ScoreObject(const v1::Score& score);
Json ModelObject(const v1::Model& model);
// "sites" of an analysis, of a snapshot, of a training run.
Json SiteArray(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites);
// A JSON text of the server's as an object; null where it is none.
Json ParsedOrNull(const std::string& text);
// One line of text. Bytes that are no UTF-8 become U+FFFD: names come from files.
std::string Line(const Json& json);

}  // namespace eigsvc::cli
