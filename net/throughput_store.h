// SPDX-License-Identifier: Apache-2.0
// What was learned of a host's throughput, kept between runs: one small JSON file per origin in
// $XDG_CACHE_HOME/kvpack/throughput (~/.cache without the variable). Losing it costs a slower start, so nothing here
// is an error: what cannot be read counts as unknown.
#pragma once

#include <optional>
#include <string>

#include "formats/result.h"
#include "net/throughput.h"

namespace kvpack {

// "" when neither $XDG_CACHE_HOME nor $HOME is set.
std::string default_cache_folder();

std::optional<ThroughputMemory> load_throughput(const std::string& folder, const std::string& origin);
Status save_throughput(const std::string& folder, const std::string& origin, const ThroughputMemory& memory);

}  // namespace kvpack
