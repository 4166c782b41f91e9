// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/report_table.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

namespace kvpack::engine {
namespace {

constexpr std::array<const char*, 9> kHeadings = {"cache", "bytes",     "ratio", "bits/value",    "rel. error",
                                                  "KL",    "delta-NLL", "top-1", "greedy, cached"};
constexpr std::array<int, 9> kWidths = {15, 10, 7, 10, 10, 9, 10, 8, 16};

std::array<std::string, 9> cells_of(const ReportRow& row) {
  return {row.name,
          fmt::format("{}", row.bytes),
          fmt::format("{:.2f}", row.ratio),
          fmt::format("{:.3f}", row.bits_per_value),
          fmt::format("{:.5f}", row.relative_error),
          fmt::format("{:.5f}", row.distance.kl),
          fmt::format("{:+.5f}", row.distance.delta_nll),
          fmt::format("{:.2f} %", 100 * row.distance.top1_share),
          fmt::format("{}, {}", row.greedy_equal, row.cached_tokens)};
}

std::string title(const ReportContext& context) {
  return fmt::format(
      "{}, {}: {} tokens in {} bytes, {} values; {} tokens teacher-forced (NLL of the warm cache {:.3f}), {} greedy",
      context.model, context.text, context.prefix_tokens, context.state_bytes, context.values,
      context.continuation_tokens, context.reference_nll, context.greedy_tokens);
}

template <typename Cells>
std::string text_line(const Cells& cells) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    line += i == 0 ? fmt::format("{:<{}}", cells[i], kWidths[i]) : fmt::format(" {:>{}}", cells[i], kWidths[i]);
  }
  return line + "\n";
}

template <typename Cells>
std::string markdown_line(const Cells& cells) {
  std::string line = "|";
  for (const auto& cell : cells) line += fmt::format(" {} |", cell);
  return line + "\n";
}

std::string as_text(const ReportContext& context, const std::vector<ReportRow>& rows) {
  std::string out = title(context) + "\n" + text_line(kHeadings);
  for (const ReportRow& row : rows) out += text_line(cells_of(row));
  return out;
}

std::string as_markdown(const ReportContext& context, const std::vector<ReportRow>& rows) {
  std::string out = title(context) + "\n\n" + markdown_line(kHeadings) + "|---|";
  for (size_t i = 1; i < kHeadings.size(); ++i) out += "---:|";
  out += "\n";
  for (const ReportRow& row : rows) out += markdown_line(cells_of(row));
  return out;
}

std::string as_json(const ReportContext& context, const std::vector<ReportRow>& rows) {
  nlohmann::ordered_json json = {{"model", context.model},
                                 {"text", context.text},
                                 {"prefix_tokens", context.prefix_tokens},
                                 {"continuation_tokens", context.continuation_tokens},
                                 {"greedy_tokens", context.greedy_tokens},
                                 {"state_bytes", context.state_bytes},
                                 {"values", context.values},
                                 {"reference_nll", context.reference_nll},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const ReportRow& row : rows) {
    nlohmann::ordered_json item = {{"cache", row.name},
                                   {"bytes", row.bytes},
                                   {"ratio", row.ratio},
                                   {"bits_per_value", row.bits_per_value},
                                   {"relative_error", row.relative_error},
                                   {"kl", row.distance.kl},
                                   {"delta_nll", row.distance.delta_nll},
                                   {"top1_share", row.distance.top1_share},
                                   {"greedy_equal", row.greedy_equal},
                                   {"cached_tokens", row.cached_tokens}};
    if (row.encode_ms >= 0) item["encode_ms"] = row.encode_ms;
    if (row.decode_ms >= 0) item["decode_ms"] = row.decode_ms;
    json["rows"].push_back(item);
  }
  return json.dump(2) + "\n";
}

}  // namespace

std::string print_report(const ReportContext& context, const std::vector<ReportRow>& rows, ReportStyle style) {
  switch (style) {
    case ReportStyle::kMarkdown:
      return as_markdown(context, rows);
    case ReportStyle::kJson:
      return as_json(context, rows);
    case ReportStyle::kText:
      break;
  }
  return as_text(context, rows);
}

}  // namespace kvpack::engine
