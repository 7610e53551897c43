// Report: a finished analysis and, beside it, its twin; rendered in the formats of -o.
#pragma once

#include <optional>
#include <string>

#include "client/cli/style.h"
#include "eigsvc/v1/analysis.pb.h"

namespace eigsvc::cli {

struct Report {
  v1::Analysis analysis;
  std::optional<v1::Analysis> twin;
  std::string source;      // the checkpoint as the user named it; empty: as the analysis does
  bool all_sites = false;  // the table's rows: every head even when there are many
};

// docs/analysis-output.schema.json describes it. One object, indented, with a newline.
std::string ReportJson(const Report& report);
// One row a site under a header; a twin's rows follow with "twin" in the first column.
std::string ReportCsv(const Report& report);
std::string ReportTable(const Report& report, const Style& style);

// "mamba2.pt", "the family's initialiser, seed 3".
std::string SourceName(const v1::CheckpointRef& checkpoint);

}  // namespace eigsvc::cli
