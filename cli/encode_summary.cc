// SPDX-License-Identifier: Apache-2.0
#include "cli/encode_summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/printable.h"
#include "cli/quantities.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

std::string details_of(const EncodeReport& report) {
  std::string text;
  const auto add = [&text](uint64_t count, std::string_view what) {
    if (count > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", grouped(count), what);
  };
  add(report.sinks, "sink tokens exact");
  add(report.non_finite, "values not finite (kept exactly)");
  add(report.raw_tiles, "tiles raw");
  if (report.passes > 1) add(report.passes, "passes");
  return text;
}

std::string times_text(const EncodeSummary& summary) {
  const EncodeTimes& times = summary.times;
  const auto in = static_cast<double>(summary.report.input_bytes);
  const auto out = static_cast<double>(summary.report.archive_bytes);
  return fmt::format("read {} ({}), encode {} ({}), write {} ({})", short_duration(times.read_seconds),
                     short_rate(in, times.read_seconds), short_duration(times.encode_seconds),
                     short_rate(static_cast<double>(summary.report.value_bytes), times.encode_seconds),
                     short_duration(times.write_seconds), short_rate(out, times.write_seconds));
}

}  // namespace

std::vector<std::string> notes_of(const EncodeReport& report, const ModelFacts* model) {
  std::vector<std::string> notes = report.notes;
  const bool said = std::any_of(notes.begin(), notes.end(), [](const std::string& note) {
    return note.find("model") != std::string::npos && note.find("larger") != std::string::npos;
  });
  if (model == nullptr && !said) {
    notes.emplace_back("no --model given: keys stay as they are (rotated by RoPE), and the archive is larger");
  }
  return notes;
}

void print_summary(const EncodeSummary& summary, const Console& console) {
  const EncodeReport& report = summary.report;
  const std::string& out = summary.arguments.output;
  console.print(console.bold(printable(out == "-" ? "standard output" : out)) +
                fmt::format(": {} -> {} bytes, ratio {:.2f}, {:.3f} bits per value\n", grouped(report.input_bytes),
                            grouped(report.archive_bytes), report.ratio, report.bits_per_value));
  const std::string in = summary.arguments.input == "-" ? "standard input" : summary.arguments.input;
  std::vector<std::pair<std::string, std::string>> fields = {
      {"input", fmt::format("{}: {}", in, summary.file.description)},
      {"values",
       fmt::format("{} ({} as stored){}", grouped(report.values), short_bytes(static_cast<double>(report.value_bytes)),
                   report.max_error ? ", largest error " + short_error(*report.max_error) : "")}};
  if (const std::string details = details_of(report); !details.empty()) fields.emplace_back("kept", details);
  fields.emplace_back("time", times_text(summary));
  for (const std::string& note : summary.notes) fields.emplace_back("note", note);
  print_fields(console, fields);

  Table table({{"level"}, {"bytes"}, {"archive up to it"}, {"bits/value"}, {"relative error"}});
  for (size_t level = 0; level < report.levels.size(); ++level) {
    const LevelReport& row = report.levels[level];
    table.add_row({std::to_string(level), grouped(row.bytes), grouped(row.cumulative_bytes),
                   fmt::format("{:.3f}", row.bits_per_value), short_error(row.relative_error)});
  }
  if (!table.empty()) table.print(console);
}

nlohmann::ordered_json json_of(const EncodeSummary& summary) {
  const EncodeReport& report = summary.report;
  nlohmann::ordered_json json = {
      {"input",
       {{"path", summary.arguments.input},
        {"bytes", report.input_bytes},
        {"format", kv_file_format_name(summary.file.format)},
        {"description", summary.file.description},
        {"module", summary.file.module},
        {"token_ids", summary.file.tokens.size()}}},
      {"output", {{"path", summary.arguments.output}, {"bytes", report.archive_bytes}}},
      {"ratio", report.ratio},
      {"bits_per_value", report.bits_per_value},
      {"values", report.values},
      {"value_bytes", report.value_bytes},
      {"sink_tokens", report.sinks},
      {"non_finite_values", report.non_finite},
      {"raw_tiles", report.raw_tiles},
      {"passes", report.passes},
      {"levels", nlohmann::ordered_json::array()},
      {"seconds",
       {{"read", summary.times.read_seconds},
        {"encode", summary.times.encode_seconds},
        {"write", summary.times.write_seconds}}},
      {"notes", summary.notes},
  };
  if (report.max_error) json["max_error"] = *report.max_error;
  for (const LevelReport& level : report.levels) {
    json["levels"].push_back({{"bytes", level.bytes},
                              {"cumulative_bytes", level.cumulative_bytes},
                              {"bits_per_value", level.bits_per_value},
                              {"relative_error", level.relative_error}});
  }
  return json;
}

}  // namespace kvpack::cli
