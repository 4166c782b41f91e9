// SPDX-License-Identifier: Apache-2.0
// Where a profile comes from: --profile, else beside the model (model.gguf: model.kvprofile), else
// $XDG_DATA_HOME/kvpack/profiles (~/.local/share by default).
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "codec/archive_codec.h"
#include "codec/profile.h"
#include "formats/archive.h"
#include "formats/model_facts.h"

namespace kvpack::cli {

struct LoadedProfile {
  std::string path;  // for messages
  Bytes bytes;
  std::string hash;
  Profile profile;
};

// For encoding: `given` is --profile ("" if not given: the profile whose model fingerprint is the model's, if one is
// found). Errors: of the given file; invalid_argument if it is another model's.
Result<std::optional<LoadedProfile>> find_profile_for_model(const std::string& given, const std::string& model_path,
                                                            const ModelFacts& facts);

// For decoding: the profile that the archive names, or none if it names none. It is the embedded one, or `given`, or
// one beside `model_path` (may be ""), or an installed one. Errors: invalid_argument with the hash if it is missing or
// `given` is another.
Result<std::optional<LoadedProfile>> find_profile_for_archive(const std::string& given, const std::string& model_path,
                                                              const ArchiveReader& reader,
                                                              const ArchiveIdentity& identity);

// --profile and --model of a verb that decodes archives.
void declare_profile_of_archive(CLI::App& verb, std::string& profile, std::string& model);

}  // namespace kvpack::cli
