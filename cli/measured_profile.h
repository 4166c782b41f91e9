// SPDX-License-Identifier: Apache-2.0
// Where there is no profile: what a context tells of itself through its model's weights (codec/context_profile.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "codec/archive_codec.h"
#include "codec/context_profile.h"
#include "codec/profile.h"
#include "formats/kv_file.h"

namespace kvpack::cli {

struct MeasureOptions {
  uint32_t queries = kMeasuredQueries;  // 0: nothing is measured
  unsigned threads = 0;
  ProgressFn progress;
};

// Unset if nothing was to be measured or nothing can be; `notes` then says why.
std::optional<Profile> measure_context(const KvFile& file, const ModelFacts* facts, const std::string& model_path,
                                       const MeasureOptions& options, std::vector<std::string>& notes);

}  // namespace kvpack::cli
