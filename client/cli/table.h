// Table: aligned columns of text.
#pragma once

#include <string>
#include <vector>

#include "client/cli/style.h"

namespace eigsvc::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };
  struct Cell {
    Cell(std::string cell_text, Paint cell_paint = Paint::kNone)
        : text(std::move(cell_text)), paint(cell_paint) {}
    Cell(const char* cell_text) : text(cell_text) {}
    std::string text;
    Paint paint = Paint::kNone;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // A row; missing cells are empty. REQUIRES: at most as many cells as columns.
  void Add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
  // A heading over columns [first, last], centred on its own line above the headers.
  void Span(int first, int last, Cell heading) { spans_.push_back({first, last, std::move(heading)}); }
  // Columns that the widest line may take, indentation included.
  int Width(int indent = 2) const;
  // Lines without trailing spaces, each ended by a newline, indented by `indent`.
  std::string Render(const Style& style, int indent = 2) const;

 private:
  struct Heading {
    int first, last;
    Cell cell;
  };
  std::vector<int> Widths() const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
  std::vector<Heading> spans_;
};

}  // namespace eigsvc::cli
