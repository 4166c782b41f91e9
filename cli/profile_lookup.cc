// SPDX-License-Identifier: Apache-2.0
#include "cli/profile_lookup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <vector>

#include "cli/input_file.h"
#include "cli/option_types.h"
#include "codec/profile_file.h"

namespace kvpack::cli {
namespace {

namespace fs = std::filesystem;

Result<LoadedProfile> load(const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, read_input(path, kMaxProfileBytes));
  KVPACK_ASSIGN_OR_RETURN(Profile profile, read_profile(bytes, path));
  LoadedProfile loaded{path, std::move(bytes), {}, std::move(profile)};
  loaded.hash = profile_hash(loaded.bytes);
  return loaded;
}

fs::path installed_folder() {
  const char* data_home = std::getenv("XDG_DATA_HOME");
  if (data_home != nullptr && *data_home != '\0') return fs::path(data_home) / "kvpack" / "profiles";
  const char* home = std::getenv("HOME");
  return home != nullptr ? fs::path(home) / ".local" / "share" / "kvpack" / "profiles" : fs::path();
}

// Where profiles may lie, best first; only what exists.
std::vector<fs::path> candidates(const std::string& model_path) {
  std::vector<fs::path> paths;
  std::error_code ignored;
  if (!model_path.empty()) {
    const fs::path beside = fs::path(model_path).replace_extension(".kvprofile");
    if (fs::is_regular_file(beside, ignored)) paths.push_back(beside);
  }
  const size_t first = paths.size();
  for (fs::directory_iterator at(installed_folder(), ignored), end; at != end; at.increment(ignored)) {
    if (at->path().extension() == ".kvprofile" && at->is_regular_file(ignored)) paths.push_back(at->path());
  }
  std::sort(paths.begin() + static_cast<ptrdiff_t>(first), paths.end());
  return paths;
}

// The first candidate that fits; files that cannot be read are passed over, as somebody else's.
std::optional<LoadedProfile> first_that(const std::string& model_path,
                                        const std::function<bool(const LoadedProfile&)>& fits) {
  for (const fs::path& path : candidates(model_path)) {
    Result<LoadedProfile> loaded = load(path.string());
    if (loaded.ok() && fits(*loaded)) return std::move(loaded).value();
  }
  return std::nullopt;
}

}  // namespace

Result<std::optional<LoadedProfile>> find_profile_for_model(const std::string& given, const std::string& model_path,
                                                            const ModelFacts& facts) {
  if (given.empty()) {
    return first_that(model_path, [&](const LoadedProfile& loaded) {
      return loaded.profile.model_fingerprint == facts.fingerprint;
    });
  }
  KVPACK_ASSIGN_OR_RETURN(LoadedProfile loaded, load(given));
  if (loaded.profile.model_fingerprint != facts.fingerprint) {
    return invalid_argument(fmt::format("{}: a profile of {} (fingerprint {}), and the model is {} ({}); train one with "
                                        "kvpack profile train",
                                        given, loaded.profile.model_name, loaded.profile.model_fingerprint, facts.name,
                                        facts.fingerprint));
  }
  return std::optional<LoadedProfile>(std::move(loaded));
}

Result<std::optional<LoadedProfile>> find_profile_for_archive(const std::string& given, const std::string& model_path,
                                                              const ArchiveReader& reader,
                                                              const ArchiveIdentity& identity) {
  if (identity.profile_hash.empty()) return std::optional<LoadedProfile>();
  if (reader.has_section(SectionKind::kProfile)) {
    LoadedProfile loaded;
    loaded.path = "the embedded profile";
    KVPACK_ASSIGN_OR_RETURN(loaded.profile, read_embedded_profile(reader));
    loaded.hash = identity.profile_hash;
    return std::optional<LoadedProfile>(std::move(loaded));
  }
  if (!given.empty()) {
    KVPACK_ASSIGN_OR_RETURN(LoadedProfile loaded, load(given));
    if (loaded.hash != identity.profile_hash) {
      return invalid_argument(
          fmt::format("{}: profile {}, the archive needs {}", given, loaded.hash, identity.profile_hash));
    }
    return std::optional<LoadedProfile>(std::move(loaded));
  }
  std::optional<LoadedProfile> found = first_that(
      model_path, [&](const LoadedProfile& loaded) { return loaded.hash == identity.profile_hash; });
  if (found) return found;
  return invalid_argument(fmt::format(
      "the archive needs profile {} of {}, which it does not carry: name it with --profile, or copy it to {}",
      identity.profile_hash, identity.model_name.empty() ? "its model" : identity.model_name,
      installed_folder().string()));
}

void declare_profile_of_archive(CLI::App& verb, std::string& profile, std::string& model) {
  verb.add_option("--profile", profile,
                  "the profile that the archive names (default: the embedded, one beside --model, or an installed one)")
      ->type_name(kFileType);
  verb.add_option("-m,--model", model, "the model beside which a profile may lie")->type_name(kFileType);
}

}  // namespace kvpack::cli
