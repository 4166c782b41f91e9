// SPDX-License-Identifier: Apache-2.0
#include "cli/action_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/option_types.h"
#include "cli/table.h"

namespace kvpack::cli {

CLI::Option* add_recompute_choice(CLI::App& verb, std::string& value) {
  return add_choice(verb, "--recompute", value, {"never", "needed", "always"},
                    "when the engine recomputes: only as far as the deadline needs it (the default), or always");
}

RecomputeMode recompute_mode(const std::string& name) {
  return name == "never"    ? RecomputeMode::kOff
         : name == "always" ? RecomputeMode::kAlways
                            : RecomputeMode::kWhenNeeded;
}

std::string action_text(const ChunkAction& action) {
  if (action.kind == ActionKind::kRecompute) return "recompute";
  const std::string load = action.levels == 0   ? "nothing"
                           : action.levels == 1 ? "load the base"
                                                : fmt::format("load levels 0 to {}", action.levels - 1);
  if (action.kind == ActionKind::kLoad) return load;
  return fmt::format("{}, recompute {:.0f} %", load, 100 * action.recompute_ratio);
}

std::string summary_of_actions(const std::vector<ChunkAction>& actions) {
  std::vector<std::pair<ChunkAction, uint32_t>> counts;
  for (const ChunkAction& action : actions) {
    const auto known =
        std::find_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.first == action; });
    if (known == counts.end()) {
      counts.push_back({action, 1});
    } else {
      ++known->second;
    }
  }
  std::vector<std::string> parts;
  for (const auto& [action, count] : counts) {
    parts.push_back(fmt::format("{} chunk{}: {}", count, count == 1 ? "" : "s", action_text(action)));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

void print_actions(const Console& console, const std::vector<ChunkAction>& actions) {
  Table table({{"chunks", Table::Align::kLeft}, {"action", Table::Align::kLeft}});
  for (size_t begin = 0; begin < actions.size();) {
    size_t end = begin + 1;
    while (end < actions.size() && actions[end] == actions[begin]) ++end;
    table.add_row({end == begin + 1 ? fmt::format("{}", begin) : fmt::format("{} to {}", begin, end - 1),
                   action_text(actions[begin])});
    begin = end;
  }
  table.print(console);
}

nlohmann::ordered_json json_of_action(uint32_t chunk, const ChunkAction& action) {
  return {{"chunk", chunk},
          {"action", action_name(action.kind)},
          {"levels", action.levels},
          {"recompute_ratio", action.recompute_ratio}};
}

nlohmann::ordered_json json_of_actions(const std::vector<ChunkAction>& actions) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (uint32_t chunk = 0; chunk < actions.size(); ++chunk) json.push_back(json_of_action(chunk, actions[chunk]));
  return json;
}

}  // namespace kvpack::cli
