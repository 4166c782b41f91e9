// SPDX-License-Identifier: Apache-2.0
#include "cli/measured_profile.h"

#include <fmt/format.h>


namespace kvpack::cli {

std::optional<Profile> measure_context(const KvFile& file, const ModelFacts* facts, const std::string& model_path,
                                       const MeasureOptions& options, std::vector<std::string>& notes) {
  if (facts == nullptr || options.queries == 0) return {};
  const auto source = open_file_source(model_path);
  if (!source.ok()) return {};  // standard input: the facts are all there is
  ContextProfileOptions context;
  context.queries = options.queries;
  context.threads = options.threads;
  context.progress = options.progress;
  Result<Profile> profile = profile_of_context(file, *facts, **source, context);
  if (profile.ok()) return std::move(profile).value();
  notes.push_back(
      fmt::format("what the model minds was not measured, the archive is larger: {}", profile.error().message));
  return {};
}

}  // namespace kvpack::cli
