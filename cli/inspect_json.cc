// SPDX-License-Identifier: Apache-2.0
#include "cli/inspect_json.h"

#include <fmt/format.h>

namespace kvpack::cli {
namespace {

using Json = nlohmann::ordered_json;

Json json_of_profile(const ArchiveReader& reader, const ArchiveIdentity& identity) {
  if (identity.profile_hash.empty()) return nullptr;
  return {{"hash", identity.profile_hash}, {"embedded", reader.has_section(SectionKind::kProfile)}};
}

Json json_of_identity(const ArchiveIdentity& identity) {
  return {{"creator", identity.creator},
          {"model",
           {{"name", identity.model_name},
            {"architecture", identity.model_architecture},
            {"fingerprint", identity.model_fingerprint}}},
          {"source",
           {{"format", kv_file_format_name(identity.source_format)},
            {"description", identity.source_description},
            {"module", identity.source_module},
            {"bytes", identity.source_bytes},
            {"assumptions", identity.assumptions},
            {"hadamard_rotated", identity.hadamard_rotated},
            {"has_opaque_state", identity.has_opaque_state}}},
          {"quality", identity.quality},
          {"lossless", identity.lossless},
          {"sliding_window", identity.sliding_window},
          {"notes", identity.notes}};
}

Json json_of_level(const LevelSummary& level) {
  return {{"bytes", level.bytes},
          {"cumulative_bytes", level.cumulative_bytes},
          {"bits_per_value", level.bits_per_value},
          {"relative_error", level.relative_error}};
}

Json json_of_plane(const PlaneSummary& plane) {
  return {{"layer", plane.shape.layer},
          {"side", side_name(plane.shape.side)},
          {"token_set", plane.shape.token_set},
          {"tokens", plane.tokens},
          {"kv_heads", plane.shape.kv_heads},
          {"head_dim", plane.shape.head_dim},
          {"type", dtype_name(plane.shape.dtype)},
          {"rope", plane.shape.rope},
          {"hadamard_block", plane.shape.hadamard_block},
          {"values", plane.values},
          {"level_bytes", plane.level_bytes},
          {"level_distortion", plane.level_distortion}};
}

Json json_of_token_set(const TokenSetShape& set) {
  Json json = {{"stream", set.stream}, {"tokens", set.positions.size()}};
  json["first_position"] = set.positions.empty() ? Json() : Json(set.positions.front());
  json["last_position"] = set.positions.empty() ? Json() : Json(set.positions.back());
  return json;
}

Json json_of_rope(const Rope& rope) {
  const std::string_view style = rope.style == RopeStyle::kNeox   ? "neox"
                                 : rope.style == RopeStyle::kNorm ? "norm"
                                                                  : "none";
  return {{"style", style}, {"base", rope.base}, {"dims", rope.dims()}, {"first_channel", rope.first_channel}};
}

}  // namespace

Json json_of(const std::string& path, const ArchiveReader& reader, const ArchiveSummary& summary) {
  Json json = {{"path", path},
               {"format_version", fmt::format("{}.{}", kArchiveMajor, reader.minor_version())},
               {"archive_id", reader.archive_id()},
               {"bytes", reader.file_bytes()},
               {"identity", json_of_identity(summary.identity)},
               {"profile", json_of_profile(reader, summary.identity)},
               {"values", summary.values},
               {"value_bytes", summary.value_bytes},
               {"chunk_tokens", reader.shape().chunk_tokens},
               {"chunks", reader.directory().chunks.size()},
               {"swa_guard_cell_offered", summary.guard_cell.possible}};
  for (const char* list : {"token_sets", "ropes", "sections", "levels", "planes"}) json[list] = Json::array();
  for (const TokenSetShape& set : reader.shape().token_sets) json["token_sets"].push_back(json_of_token_set(set));
  for (const Rope& rope : reader.shape().ropes) json["ropes"].push_back(json_of_rope(rope));
  for (const SectionEntry& section : reader.directory().sections) {
    json["sections"].push_back({{"kind", section_name(section.kind)},
                                {"stored_bytes", section.stored_bytes},
                                {"raw_bytes", section.raw_bytes}});
  }
  for (const LevelSummary& level : summary.levels) json["levels"].push_back(json_of_level(level));
  for (const PlaneSummary& plane : summary.planes) json["planes"].push_back(json_of_plane(plane));
  return json;
}

}  // namespace kvpack::cli
