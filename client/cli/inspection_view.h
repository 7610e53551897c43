// A CheckpointInspection as `eigsvc inspect` shows it.
#pragma once

#include <string>

#include "client/cli/analysis_json.h"
#include "client/cli/listing.h"
#include "client/cli/style.h"
#include "eigsvc/v1/checkpoint.pb.h"

namespace eigsvc::cli {

Listing TensorListing(const v1::CheckpointInspection& inspection);
Json InspectionObject(const std::string& path, const v1::CheckpointInspection& inspection);
std::string InspectionTable(const std::string& path, const v1::CheckpointInspection& inspection,
                            bool with_tensors, const Style& style);

}  // namespace eigsvc::cli
