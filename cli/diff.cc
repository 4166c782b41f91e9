// SPDX-License-Identifier: Apache-2.0
#include "cli/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/tensor_distance.h"

namespace kvpack::cli {
namespace {

Result<KvTensor> load_tensor(const std::string& path, const ModelFacts* facts, const DiffArguments& arguments,
                             const Console& console) {
  auto archive = ArchiveInput::open(path);
  if (!archive.ok() && archive.error().kind != ErrorKind::kNotKvpack) return archive.error();
  if (!archive.ok()) {
    KVPACK_ASSIGN_OR_RETURN(KvFile file, read_kv_input(path, facts, /*hadamard_rotated=*/true));
    return std::move(file.tensor);
  }
  const ArchiveReader& reader = (*archive)->reader();
  const auto identity = read_identity(reader);
  if (!identity.ok()) return about_file(identity.error(), path);
  const auto profile = find_profile_for_archive(arguments.profile, arguments.model, reader, *identity);
  if (!profile.ok()) return about_file(profile.error(), path);
  Progress progress(console, "decoding");
  DecodeOptions options;
  if (*profile) options.profile = &(*profile)->profile;
  options.progress = progress.callback();
  auto tensor = decode_tensor(reader, options, nullptr);
  return tensor.ok() ? std::move(tensor) : about_file(tensor.error(), path);
}

nlohmann::ordered_json json_of(const Distance& distance) {
  return {{"values", distance.values},
          {"differing", distance.differing},
          {"non_finite_differing", distance.non_finite},
          {"max_abs_error", distance.max_abs_error},
          {"relative_l2", distance.relative_l2()},
          {"cosine", distance.cosine()}};
}

nlohmann::ordered_json json_of(const PlaneDistance& plane) {
  nlohmann::ordered_json json = {
      {"layer", plane.layer},   {"side", side_name(plane.side)},        {"stream", plane.stream},
      {"tokens", plane.tokens}, {"tokens_only_a", plane.tokens_only_a}, {"tokens_only_b", plane.tokens_only_b}};
  json.update(json_of(plane.distance));
  return json;
}

std::vector<std::string> row_of(const std::string& layer, const std::string& side, const Distance& distance) {
  return {layer,
          side,
          grouped(distance.values),
          grouped(distance.differing),
          short_error(distance.max_abs_error),
          short_error(distance.relative_l2()),
          fmt::format("{:.6f}", distance.cosine())};
}

// Totals over K, over V, over both.
struct Totals {
  Distance key;
  Distance value;
  Distance all;
};

Totals totals_of(const std::vector<PlaneDistance>& planes) {
  Totals totals;
  for (const PlaneDistance& plane : planes) {
    (plane.side == Side::kKey ? totals.key : totals.value) += plane.distance;
    totals.all += plane.distance;
  }
  return totals;
}

void print_table(const std::vector<PlaneDistance>& planes, const Totals& totals, const Console& console) {
  Table table({{"layer"}, {"side"}, {"values"}, {"differing"}, {"max error"}, {"relative L2"}, {"cosine"}});
  for (const PlaneDistance& plane : planes) {
    table.add_row(row_of(std::to_string(plane.layer), std::string(side_name(plane.side)), plane.distance));
  }
  if (totals.key.values > 0) table.add_row(row_of("all", "K", totals.key));
  if (totals.value.values > 0) table.add_row(row_of("all", "V", totals.value));
  table.add_row(row_of("all", "", totals.all));
  table.print(console);
}

void note_what_was_left_out(const std::vector<PlaneDistance>& planes, const Totals& totals, const Console& console) {
  uint32_t only_a = 0;
  uint32_t only_b = 0;
  for (const PlaneDistance& plane : planes) {
    only_a = std::max(only_a, plane.tokens_only_a);
    only_b = std::max(only_b, plane.tokens_only_b);
  }
  if (only_a + only_b > 0) {
    console.note(
        fmt::format("only common positions are compared: up to {} tokens of a layer are only in the first, "
                    "up to {} only in the second",
                    only_a, only_b));
  }
  if (totals.all.non_finite > 0) {
    console.note(
        fmt::format("{} values differ and are not finite; errors leave them out", grouped(totals.all.non_finite)));
  }
}

}  // namespace

void declare_diff(CLI::App& verb, DiffArguments& arguments) {
  verb.add_option("A", arguments.first, "KV file or archive; relative errors are relative to it")
      ->type_name(kFileType)
      ->required();
  verb.add_option("B", arguments.second, "KV file or archive")->type_name(kFileType)->required();
  verb.add_option("-m,--model", arguments.model,
                  "the model, where layer numbers cannot be read from the files; a profile may lie beside it")
      ->type_name(kFileType);
  verb.add_option("--profile", arguments.profile, "the profile that an archive names (default: as decode finds it)")
      ->type_name(kFileType);
  verb.add_flag("--json", arguments.json, "print as JSON");
  verb.footer(
      "Exit code: 0 if the two could be compared, however far apart; 2 if their shapes differ.\n\n"
      "Examples:\n"
      "  kvpack diff slot.bin ctx.kvp\n"
      "  kvpack diff slot.bin restored.bin --json");
}

Result<int> run_diff(const DiffArguments& arguments, Console& console) {
  for (const std::string& path : {arguments.first, arguments.second}) {
    if (path == "-") return invalid_argument("diff reads files, not standard input");
  }
  std::optional<ModelFacts> facts;
  if (!arguments.model.empty()) {
    KVPACK_ASSIGN_OR_RETURN(facts, read_model(arguments.model));
  }
  const ModelFacts* model = facts ? &*facts : nullptr;
  KVPACK_ASSIGN_OR_RETURN(const KvTensor first, load_tensor(arguments.first, model, arguments, console));
  KVPACK_ASSIGN_OR_RETURN(const KvTensor second, load_tensor(arguments.second, model, arguments, console));
  const auto planes = distance_between(first, second);
  if (!planes.ok()) return planes.error().within(arguments.first + " and " + arguments.second);
  const Totals totals = totals_of(*planes);
  note_what_was_left_out(*planes, totals, console);
  if (!arguments.json) {
    print_table(*planes, totals, console);
    return kExitOk;
  }
  nlohmann::ordered_json json = {{"a", arguments.first}, {"b", arguments.second}};
  json["planes"] = nlohmann::ordered_json::array();
  for (const PlaneDistance& plane : *planes) json["planes"].push_back(json_of(plane));
  json["total_k"] = json_of(totals.key);
  json["total_v"] = json_of(totals.value);
  json["total"] = json_of(totals.all);
  console.print_json(json);
  return kExitOk;
}

}  // namespace kvpack::cli
