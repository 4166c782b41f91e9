// SPDX-License-Identifier: Apache-2.0
// What happens to every chunk, for people and machines; `plan` and `fetch` speak alike.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/console.h"
#include "net/planner.h"

namespace kvpack::cli {

// --recompute never|needed|always
CLI::Option* add_recompute_choice(CLI::App& verb, std::string& value);
RecomputeMode recompute_mode(const std::string& name);

std::string action_text(const ChunkAction& action);  // "load levels 0 to 2", "recompute"
// "recompute 3 chunks, load levels 0 to 2 of 20, the base of 9"
std::string summary_of_actions(const std::vector<ChunkAction>& actions);
// One line per run of chunks with the same action.
void print_actions(const Console& console, const std::vector<ChunkAction>& actions);
nlohmann::ordered_json json_of_action(uint32_t chunk, const ChunkAction& action);
nlohmann::ordered_json json_of_actions(const std::vector<ChunkAction>& actions);

}  // namespace kvpack::cli
