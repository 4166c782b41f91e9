// SPDX-License-Identifier: Apache-2.0
#include "cli/inspect.h"

#include <fmt/format.h>

#include "cli/archive_summary.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/inspect_json.h"
#include "cli/option_types.h"
#include "cli/printable.h"
#include "cli/quantities.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

std::string model_text(const ArchiveIdentity& identity) {
  if (identity.model_fingerprint.empty()) return "not given: keys are stored as they were";
  return fmt::format("{} ({}), {}", identity.model_name.empty() ? "unnamed" : identity.model_name,
                     identity.model_architecture, identity.model_fingerprint);
}

std::string profile_text(const ArchiveReader& reader, const ArchiveIdentity& identity) {
  if (identity.profile_hash.empty()) return "none needed";
  return identity.profile_hash + (reader.has_section(SectionKind::kProfile)
                                      ? " (embedded)"
                                      : ": needed to decode, not carried (decode --profile)");
}

std::string token_set_text(const TokenSetShape& set) {
  if (set.positions.empty()) return "none";
  return fmt::format("{} at positions {} to {}{}", grouped(set.positions.size()), set.positions.front(),
                     set.positions.back(), set.stream > 0 ? fmt::format(", stream {}", set.stream) : "");
}

void add_token_fields(const ArchiveReader& reader, Fields& fields) {
  const ArchiveShape& shape = reader.shape();
  for (const TokenSetShape& set : shape.token_sets) fields.emplace_back("tokens", token_set_text(set));
  fields.emplace_back("chunks",
                      fmt::format("{} of up to {} tokens", reader.directory().chunks.size(), shape.chunk_tokens));
  for (const SectionEntry& section : reader.directory().sections) {
    fields.emplace_back("section", fmt::format("{}: {} bytes ({} unpacked)", section_name(section.kind),
                                               grouped(section.stored_bytes), grouped(section.raw_bytes)));
  }
}

std::string guard_cell_text(const ArchiveSummary& summary) {
  if (!summary.guard_cell.possible) return "not offered: " + summary.guard_cell.why_not;
  return "offered (decode --swa-guard-cell): llama-server then reuses this sliding-window context";
}

Fields identity_fields(const ArchiveReader& reader, const ArchiveSummary& summary) {
  const ArchiveIdentity& identity = summary.identity;
  Fields fields = {
      {"archive", fmt::format("version {}.{}, id {}, {} bytes", kArchiveMajor, reader.minor_version(),
                              reader.archive_id(), grouped(reader.file_bytes()))},
      {"made by", identity.creator},
      {"source", fmt::format("{}, {} bytes", identity.source_description, grouped(identity.source_bytes))},
      {"module", identity.source_module.empty() ? "-" : identity.source_module},
      {"model", model_text(identity)},
      {"profile", profile_text(reader, identity)},
      {"quality", identity.quality},
      {"values", fmt::format("{} ({} bytes as stored)", grouped(summary.values), grouped(summary.value_bytes))}};
  add_token_fields(reader, fields);
  if (identity.has_opaque_state) fields.emplace_back("also", "state that is not attention KV, kept exactly");
  if (!identity.assumptions.empty()) fields.emplace_back("assumed", identity.assumptions);
  if (identity.source_module.find("SWA") != std::string::npos) {
    fields.emplace_back("guard cell", guard_cell_text(summary));
  }
  for (const std::string& note : identity.notes) fields.emplace_back("note", note);
  return fields;
}

void print_levels(const ArchiveSummary& summary, const Console& console) {
  Table table({{"level"}, {"bytes"}, {"archive up to it"}, {"ratio"}, {"bits/value"}, {"relative error"}});
  for (size_t level = 0; level < summary.levels.size(); ++level) {
    const LevelSummary& row = summary.levels[level];
    const auto source_bytes = static_cast<double>(summary.identity.source_bytes);
    table.add_row({std::to_string(level), grouped(row.bytes), grouped(row.cumulative_bytes),
                   fmt::format("{:.2f}", per(source_bytes, static_cast<double>(row.cumulative_bytes))),
                   fmt::format("{:.3f}", row.bits_per_value), short_error(row.relative_error)});
  }
  table.print(console);
}

std::string rope_text(const PlaneShape& plane, const ArchiveShape& shape) {
  if (plane.rope < 0) return "-";
  const Rope& rope = shape.ropes[static_cast<size_t>(plane.rope)];
  const std::string_view style = rope.style == RopeStyle::kNeox   ? "neox"
                                 : rope.style == RopeStyle::kNorm ? "norm"
                                                                  : "-";
  return fmt::format("{} {:g} on {}", style, rope.base, rope.dims());
}

bool same_kind(const PlaneShape& a, const PlaneShape& b) {
  return a.side == b.side && a.token_set == b.token_set && a.rope == b.rope && a.kv_heads == b.kv_heads &&
         a.head_dim == b.head_dim && a.dtype == b.dtype;
}

std::vector<std::string> kind_cells(const PlaneShape& plane, const ArchiveShape& shape) {
  return {std::string(side_name(plane.side)), fmt::format("{} x {}", plane.kv_heads, plane.head_dim),
          std::string(dtype_name(plane.dtype)), rope_text(plane, shape)};
}

const std::vector<Table::Column> kKindColumns = {
    {"side"}, {"heads x dim"}, {"type"}, {"RoPE undone", Table::Align::kLeft}};

// One line per kind of plane: "0-3,5" x K.
void print_kinds(const ArchiveSummary& summary, const ArchiveShape& shape, const Console& console) {
  std::vector<std::pair<PlaneShape, std::vector<uint32_t>>> kinds;
  for (const PlaneSummary& plane : summary.planes) {
    auto kind = kinds.begin();
    while (kind != kinds.end() && !same_kind(kind->first, plane.shape)) ++kind;
    if (kind == kinds.end()) kind = kinds.insert(kind, {plane.shape, {}});
    kind->second.push_back(plane.shape.layer);
  }
  std::vector<Table::Column> columns = {{"layers", Table::Align::kLeft}, {"tokens"}};
  columns.insert(columns.end(), kKindColumns.begin(), kKindColumns.end());
  Table table(columns);
  for (const auto& [plane, layers] : kinds) {
    std::string text;
    for (size_t i = 0; i < layers.size(); ++i) {
      const bool inside =
          i > 0 && i + 1 < layers.size() && layers[i - 1] + 1 == layers[i] && layers[i] + 1 == layers[i + 1];
      if (inside) continue;
      const bool ends_run = i > 1 && layers[i - 1] + 1 == layers[i] && layers[i - 2] + 1 == layers[i - 1];
      text += fmt::format("{}{}", i == 0 ? "" : ends_run ? "-" : ",", layers[i]);
    }
    std::vector<std::string> row = {text, grouped(shape.token_sets[plane.token_set].positions.size())};
    for (std::string& cell : kind_cells(plane, shape)) row.push_back(std::move(cell));
    table.add_row(row);
  }
  table.print(console);
}

void print_planes(const ArchiveSummary& summary, const ArchiveShape& shape, const Console& console) {
  std::vector<Table::Column> columns = {{"layer"}, {"tokens"}};
  columns.insert(columns.end(), kKindColumns.begin(), kKindColumns.end());
  for (size_t level = 0; level < summary.levels.size(); ++level)
    columns.push_back({fmt::format("level {} bytes", level)});
  columns.push_back({"bits/value"});
  Table table(columns);
  for (const PlaneSummary& plane : summary.planes) {
    std::vector<std::string> row = {std::to_string(plane.shape.layer), grouped(plane.tokens)};
    for (std::string& cell : kind_cells(plane.shape, shape)) row.push_back(std::move(cell));
    uint64_t bytes = 0;
    for (const uint64_t level_bytes : plane.level_bytes) {
      row.push_back(grouped(level_bytes));
      bytes += level_bytes;
    }
    row.push_back(fmt::format("{:.3f}", per(8.0 * static_cast<double>(bytes), static_cast<double>(plane.values))));
    table.add_row(row);
  }
  table.print(console);
}

}  // namespace

void declare_inspect(CLI::App& verb, InspectArguments& arguments) {
  verb.add_option("ARCHIVE", arguments.input, "archive or its URL; - for standard input")
      ->type_name(kFileType)
      ->required();
  verb.add_flag("--layers", arguments.layers, "one line per layer and side, with bytes per level");
  verb.add_flag("--json", arguments.json, "print as JSON");
  declare_net_options(verb, arguments.net);
  verb.footer(
      "Reads the directory, not the values; `kvpack verify` checks those.\n\n"
      "Examples:\n"
      "  kvpack inspect ctx.kvp\n"
      "  kvpack inspect ctx.kvp --layers\n"
      "  kvpack inspect https://host/ctx.kvp\n"
      "  kvpack inspect ctx.kvp --json | jq .levels");
}

Result<int> run_inspect(const InspectArguments& arguments, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto net, net_options(arguments.net));
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(arguments.input, net));
  const ArchiveReader& reader = input->reader();
  const auto summary = summarize_archive(reader, arguments.layers || arguments.json);
  if (!summary.ok()) return about_file(summary.error(), arguments.input);
  if (arguments.json) {
    console.print_json(json_of(shown_name(arguments.input), reader, *summary));
    return kExitOk;
  }
  console.print(console.bold(printable(shown_name(arguments.input))) + "\n");
  print_fields(console, identity_fields(reader, *summary));
  console.print("\n");
  print_levels(*summary, console);
  console.print("\n");
  if (arguments.layers) {
    print_planes(*summary, reader.shape(), console);
  } else {
    print_kinds(*summary, reader.shape(), console);
  }
  return kExitOk;
}

}  // namespace kvpack::cli
