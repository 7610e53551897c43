#include "client/cli/table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace eigsvc::cli {
namespace {

constexpr int kGap = 2;

}  // namespace

std::vector<int> Table::Widths() const {
  std::vector<int> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int width = DisplayWidth(columns_[c].header);
    for (const std::vector<Cell>& row : rows_) {
      if (c < row.size()) width = std::max(width, DisplayWidth(row[c].text));
    }
    widths.push_back(width);
  }
  return widths;
}

int Table::Width(int indent) const {
  int width = indent - kGap;
  for (const int column : Widths()) width += column + kGap;
  return width;
}

std::string Table::Render(const Style& style, int indent) const {
  const std::vector<int> widths = Widths();
  std::string out;
  if (!spans_.empty()) {
    std::string line(indent, ' ');
    int column = 0;
    int position = 0;  // columns written, colour codes not counted
    for (const Heading& span : spans_) {
      int start = 0;
      for (column = 0; column < span.first; ++column) start += widths[column] + kGap;
      int width = -kGap;
      for (column = span.first; column <= span.last; ++column) width += widths[column] + kGap;
      start += std::max(0, (width - DisplayWidth(span.cell.text)) / 2);
      absl::StrAppend(&line, std::string(std::max(0, start - position), ' '));
      position = std::max(position, start) + DisplayWidth(span.cell.text);
      absl::StrAppend(&line, style.Apply(span.cell.paint, span.cell.text));
    }
    absl::StrAppend(&out, line, "\n");
  }

  const auto append_row = [&](const std::vector<Cell>& row) {
    std::string line(indent, ' ');
    int pending = 0;  // spaces owed; written only before text, so that no line ends in spaces
    for (size_t c = 0; c < columns_.size(); ++c) {
      const Cell cell = c < row.size() ? row[c] : Cell("");
      const int slack = widths[c] - DisplayWidth(cell.text);
      const bool right = columns_[c].align == Align::kRight;
      if (!cell.text.empty()) {
        absl::StrAppend(&line, std::string(pending + (right ? slack : 0), ' '),
                        style.Apply(cell.paint, cell.text));
        pending = (right ? 0 : slack) + kGap;
      } else {
        pending += widths[c] + kGap;
      }
    }
    absl::StrAppend(&out, line, "\n");
  };
  std::vector<Cell> header;
  for (const Column& column : columns_) header.emplace_back(column.header, Paint::kDim);
  append_row(header);
  for (const std::vector<Cell>& row : rows_) append_row(row);
  return out;
}

}  // namespace eigsvc::cli
