// SPDX-License-Identifier: Apache-2.0
// Plain-text tables: columns as wide as their widest cell, numbers to the right.
#pragma once

#include <string>
#include <vector>

#include "cli/console.h"

namespace kvpack::cli {

class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // One cell per column; made printable here.
  void add_row(const std::vector<std::string>& cells);
  bool empty() const { return rows_.empty(); }
  void print(const Console& console) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Lines of "  name   value", as inspect and the reports begin.
void print_fields(const Console& console, const std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace kvpack::cli
