// SPDX-License-Identifier: Apache-2.0
#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "cli/printable.h"

namespace kvpack::cli {
namespace {

// Columns on a terminal, near enough: one per code point.
size_t display_width(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, Table::Align align) {
  const std::string space(width - std::min(width, display_width(text)), ' ');
  return align == Table::Align::kLeft ? text + space : space + text;
}

}  // namespace

void Table::add_row(const std::vector<std::string>& cells) {
  assert(cells.size() == columns_.size());
  std::vector<std::string>& row = rows_.emplace_back();
  for (const std::string& cell : cells) row.push_back(printable(cell));
}

void Table::print(const Console& console) const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(display_width(columns_[c].title));
    for (const auto& row : rows_) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  const auto line = [&](auto&& cell_of) {
    std::string text;
    for (size_t c = 0; c < columns_.size(); ++c) text += "  " + padded(cell_of(c), widths[c], columns_[c].align);
    text.resize(text.find_last_not_of(' ') + 1);
    return text;
  };
  console.print(console.bold(line([this](size_t c) { return columns_[c].title; })) + "\n");
  for (const auto& row : rows_) console.print(line([&row](size_t c) { return row[c]; }) + "\n");
}

void print_fields(const Console& console, const std::vector<std::pair<std::string, std::string>>& fields) {
  size_t width = 0;
  for (const auto& [name, value] : fields) width = std::max(width, name.size());
  for (const auto& [name, value] : fields) console.print(fmt::format("  {:<{}}  {}\n", name, width, printable(value)));
}

}  // namespace kvpack::cli
