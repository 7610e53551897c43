#include "client/cli/listing.h"

#include "absl/strings/str_cat.h"
#include "client/cli/csv.h"

namespace eigsvc::cli {

std::string CellText(const Json& value) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return Line(value);
  std::string text;
  for (const Json& element : value) absl::StrAppend(&text, text.empty() ? "" : ", ", CellText(element));
  return text;
}

std::string Listing::Render(Format format, const Style& style, absl::string_view empty) const {
  const auto member = [](const Json& record, const std::string& key) { return record.value(key, Json()); };
  switch (format) {
    case Format::kJson:
      return absl::StrCat(Json{{"schema_version", kSchemaVersion}, {name_, records_}}.dump(
                              2, ' ', false, Json::error_handler_t::replace),
                          "\n");
    case Format::kNdjson: {
      std::string out;
      for (const Json& record : records_) absl::StrAppend(&out, Line(record), "\n");
      return out;
    }
    case Format::kCsv: {
      std::vector<std::string> header;
      for (const Column& column : columns_) header.push_back(column.key);
      std::string out = CsvRow(header);
      for (const Json& record : records_) {
        std::vector<std::string> row;
        for (const Column& column : columns_) row.push_back(CellText(member(record, column.key)));
        out += CsvRow(row);
      }
      return out;
    }
    case Format::kTable:
      break;
  }
  if (records_.empty()) return absl::StrCat(empty, "\n");
  std::vector<Table::Column> columns;
  for (const Column& column : columns_) columns.push_back({column.header, column.align});
  Table table(std::move(columns));
  for (const Json& record : records_) {
    std::vector<Table::Cell> row;
    for (const Column& column : columns_) {
      const Json value = member(record, column.key);
      row.emplace_back(Printable(column.text ? column.text(value) : CellText(value)));
    }
    table.Add(std::move(row));
  }
  return table.Render(style, 0);
}

}  // namespace eigsvc::cli
