// SPDX-License-Identifier: Apache-2.0
// `kvpack inspect --json`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/archive_summary.h"

namespace kvpack::cli {

nlohmann::ordered_json json_of(const std::string& path, const ArchiveReader& reader, const ArchiveSummary& summary);

}  // namespace kvpack::cli
