// SPDX-License-Identifier: Apache-2.0
#include "cli/version.h"

#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <Eigen/Core>

#include "cli/exit_code.h"
#include "cli/table.h"
#include "formats/archive.h"

namespace kvpack::cli {
namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

// Versions as compiled in; zstd's and xxhash's as loaded.
std::vector<std::pair<std::string, std::string>> libraries() {
  const unsigned xxhash = XXH_versionNumber();
  return {{"zstd", ZSTD_versionString()},
          {"xxhash", fmt::format("{}.{}.{}", xxhash / 10000, xxhash / 100 % 100, xxhash % 100)},
          {"Eigen", fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
          {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                        NLOHMANN_JSON_VERSION_PATCH)},
          {"CLI11", CLI11_VERSION}};
}

std::string build_type() { return *KVPACK_BUILD_TYPE == '\0' ? "none" : KVPACK_BUILD_TYPE; }
std::string format_version() { return fmt::format("{}.{}", kArchiveMajor, kArchiveMinor); }

}  // namespace

std::string version_line() { return "kvpack " KVPACK_VERSION; }

void declare_version(CLI::App& verb, VersionArguments& arguments) {
  verb.add_flag("--json", arguments.json, "print as JSON");
  verb.footer(
      "Examples:\n"
      "  kvpack version\n"
      "  kvpack version --json | jq -r .format_version");
}

Result<int> run_version(const VersionArguments& arguments, Console& console) {
  if (arguments.json) {
    nlohmann::ordered_json json = {{"version", KVPACK_VERSION},
                                   {"format_version", format_version()},
                                   {"compiler", compiler()},
                                   {"build_type", build_type()}};
    for (const auto& [name, version] : libraries()) json["libraries"][name] = version;
    console.print_json(json);
    return kExitOk;
  }
  console.print(version_line() + "\n");
  std::vector<std::pair<std::string, std::string>> fields = {
      {"archive format", format_version()}, {"compiler", compiler()}, {"build type", build_type()}};
  for (const auto& library : libraries()) fields.push_back(library);
  print_fields(console, fields);
  return kExitOk;
}

}  // namespace kvpack::cli
