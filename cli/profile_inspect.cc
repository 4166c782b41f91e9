// SPDX-License-Identifier: Apache-2.0
// kvpack profile inspect: whose profile it is, and a line per layer with a picture of where errors matter.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/profile.h"
#include "cli/quantities.h"
#include "cli/table.h"
#include "codec/profile_file.h"

namespace kvpack::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kBarCells = 12;

double mean_sensitivity(const ProfilePlane& plane) {
  double sum = 0;
  for (float value : plane.sensitivity) sum += static_cast<double>(value);
  return sum / static_cast<double>(plane.sensitivity.size());
}

// Mean square of the components: what rounding everything to zero would cost, per value.
double mean_weight(const ProfilePlane& plane) {
  double sum = 0;
  for (float value : plane.deviation) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum / static_cast<double>(plane.deviation.size());
}

// Components of a head, on average, that hold 99 % of its weight.
double components_that_count(const ProfilePlane& plane) {
  double total = 0;
  for (uint32_t head = 0; head < plane.kv_heads; ++head) {
    const auto first = plane.deviation.begin() + static_cast<ptrdiff_t>(size_t{head} * plane.head_dim);
    std::vector<double> weights;
    for (uint32_t k = 0; k < plane.head_dim; ++k) weights.push_back(static_cast<double>(first[k]) * first[k]);
    std::sort(weights.rbegin(), weights.rend());
    double sum = 0, wanted = 0;
    for (double weight : weights) wanted += 0.99 * weight;
    for (size_t k = 0; k < weights.size() && sum < wanted; ++k, ++total) sum += weights[k];
  }
  return total / plane.kv_heads;
}

struct Scale {
  double least = 0, most = 0;  // log10
};

Scale scale_of(const Profile& profile) {
  Scale scale{1e300, -1e300};
  for (const ProfilePlane& plane : profile.planes) {
    const double power = std::log10(mean_sensitivity(plane));
    scale.least = std::min(scale.least, power);
    scale.most = std::max(scale.most, power);
  }
  return scale;
}

// A bar of eighths, logarithmic: the least sensitive plane has one eighth, the most sensitive all cells.
std::string bar(double sensitivity, const Scale& scale) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double span = std::max(scale.most - scale.least, 1e-9);
  const double share = (std::log10(sensitivity) - scale.least) / span;
  const auto eighths = static_cast<size_t>(1 + std::lround(std::clamp(share, 0.0, 1.0) * (8 * kBarCells - 1)));
  std::string text;
  for (size_t cell = 0; cell < eighths / 8; ++cell) text += "█";
  return text + kEighths[eighths % 8];
}

void print_layers(const Profile& profile, const Console& console) {
  const Scale scale = scale_of(profile);
  std::vector<Table::Column> columns = {{"layer"}};
  for (const char* side : {"K", "V"}) {
    columns.insert(columns.end(), {{fmt::format("{} heads x dim", side)},
                                   {"sensitivity"},
                                   {"(log)", Table::Align::kLeft},
                                   {"weight"},
                                   {"components"}});
  }
  columns.push_back({"token weights"});
  Table table(columns);
  std::map<uint32_t, bool> layers;
  for (const ProfilePlane& plane : profile.planes) layers[plane.layer] = true;
  for (const auto& [layer, _] : layers) {
    std::vector<std::string> row = {std::to_string(layer)};
    for (Side side : {Side::kKey, Side::kValue}) {
      const ProfilePlane* plane = profile.plane(layer, side);
      if (plane == nullptr) {
        row.insert(row.end(), {"-", "", "", "", ""});
        continue;
      }
      row.insert(row.end(),
                 {fmt::format("{} x {}", plane->kv_heads, plane->head_dim),
                  fmt::format("{:.3g}", mean_sensitivity(*plane)), bar(mean_sensitivity(*plane), scale),
                  fmt::format("{:.3g}", mean_weight(*plane)), fmt::format("{:.1f}", components_that_count(*plane))});
    }
    row.push_back(profile.token_model(layer) != nullptr ? "yes" : "no");
    table.add_row(row);
  }
  table.print(console);
  console.print(
      "sensitivity: of the predictions, per squared error of a value; weight: cost of dropping a value, in squared\n"
      "steps of 1; components: how many of a head's hold 99 % of its weight.\n");
}

Json json_of(const Profile& profile, const Bytes& bytes) {
  Json json = {{"hash", profile_hash(bytes)},
               {"bytes", bytes.size()},
               {"model",
                {{"name", profile.model_name},
                 {"architecture", profile.model_architecture},
                 {"fingerprint", profile.model_fingerprint}}},
               {"method", profile.method},
               {"planes", Json::array()}};
  for (const ProfilePlane& plane : profile.planes) {
    json["planes"].push_back({{"layer", plane.layer},
                              {"side", side_name(plane.side)},
                              {"kv_heads", plane.kv_heads},
                              {"head_dim", plane.head_dim},
                              {"sensitivity", plane.sensitivity},
                              {"weight", mean_weight(plane)},
                              {"components", components_that_count(plane)},
                              {"token_weights", profile.token_model(plane.layer) != nullptr}});
  }
  return json;
}

}  // namespace

void declare_profile_inspect(CLI::App& verb, ProfileInspectArguments& arguments) {
  verb.add_option("PROFILE", arguments.input, ".kvprofile file")->type_name(kFileType)->required();
  verb.add_flag("--json", arguments.json, "print JSON");
  verb.footer(
      "Examples:\n"
      "  kvpack profile inspect model.kvprofile\n"
      "  kvpack profile inspect model.kvprofile --json | jq .hash");
}

Result<int> run_profile_inspect(const ProfileInspectArguments& arguments, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, read_input(arguments.input, kMaxProfileBytes));
  KVPACK_ASSIGN_OR_RETURN(const Profile profile, read_profile(bytes, arguments.input));
  if (arguments.json) {
    console.print_json(json_of(profile, bytes));
    return kExitOk;
  }
  print_fields(console,
               {{"profile", fmt::format("{}, {} bytes", profile_hash(bytes), grouped(bytes.size()))},
                {"model", fmt::format("{} ({}), {}", profile.model_name.empty() ? "unnamed" : profile.model_name,
                                      profile.model_architecture, profile.model_fingerprint)},
                {"made by", profile.method}});
  print_layers(profile, console);
  return kExitOk;
}

}  // namespace kvpack::cli
