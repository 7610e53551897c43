// Listing: rows of records, such as models or jobs, in every format of -o. Records are JSON objects; a column
// names the member it shows.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/analysis_json.h"
#include "client/cli/session.h"
#include "client/cli/table.h"

namespace eigsvc::cli {

class Listing {
 public:
  struct Column {
    std::string key, header;
    Table::Align align = Table::Align::kLeft;
    std::function<std::string(const Json&)> text = nullptr;  // of the table's cell; default: the value itself
  };
  // `name`: the member that holds the records in -o json, "models".
  Listing(std::string name, std::vector<Column> columns)
      : name_(std::move(name)), columns_(std::move(columns)) {}
  // Members without a column appear in JSON only.
  void Add(Json record) { records_.push_back(std::move(record)); }
  // `empty`: said instead of a table without rows.
  std::string Render(Format format, const Style& style, absl::string_view empty) const;

 private:
  const std::string name_;
  const std::vector<Column> columns_;
  std::vector<Json> records_;
};

// A JSON value as a cell: strings bare, arrays joined by commas, null empty.
std::string CellText(const Json& value);

}  // namespace eigsvc::cli
