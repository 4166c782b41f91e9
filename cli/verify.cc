// SPDX-License-Identifier: Apache-2.0
#include "cli/verify.h"

#include <fmt/format.h>

#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"

namespace kvpack::cli {
namespace {

struct Checked {
  uint64_t bytes = 0;
  uint64_t tiles = 0;
};

uint64_t tiles_of(const Directory& directory) {
  uint64_t tiles = 0;
  for (const ChunkShape& chunk : directory.chunks) tiles += chunk.planes;
  return tiles * directory.levels;
}

// The restored file, which nobody wants.
class Nowhere : public PlacedSink {
 public:
  Status set_size(uint64_t) override { return {}; }
  Status write_at(uint64_t, ByteSpan) override { return {}; }
};

// Checksums of every byte, then everything that a decode would read: identity, token ids, all tiles, the container.
Result<Checked> verify_archive(const std::string& path, const VerifyArguments& arguments, const RangeSourceOptions& net,
                               const Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(path, net));
  const ArchiveReader& reader = input->reader();
  input->read_ahead_all();
  KVPACK_RETURN_IF_ERROR(reader.verify());
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  if (!arguments.fast) {
    if (reader.has_section(SectionKind::kTokens)) KVPACK_RETURN_IF_ERROR(read_tokens(reader));
    KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile,
                            find_profile_for_archive(arguments.profile, arguments.model, reader, identity));
    Progress progress(console, "verifying", identity.source_bytes);
    DecodeOptions options;
    if (profile) options.profile = &profile->profile;
    options.progress = progress.callback();
    Nowhere nowhere;
    KVPACK_RETURN_IF_ERROR(restore_file(reader, options, nowhere));
  }
  return Checked{reader.file_bytes(), tiles_of(reader.directory())};
}

}  // namespace

void declare_verify(CLI::App& verb, VerifyArguments& arguments) {
  verb.add_option("ARCHIVE", arguments.inputs, "archives or their URLs; - for standard input")
      ->type_name(kFileType)
      ->required()
      ->expected(-1);
  declare_profile_of_archive(verb, arguments.profile, arguments.model);
  verb.add_flag("--fast", arguments.fast, "checksums and structure only; decode nothing (needs no profile)");
  verb.add_flag("--json", arguments.json, "print the findings as JSON");
  declare_net_options(verb, arguments.net);
  verb.footer(
      "Exit code: 0 if all are whole, else that of the first bad one: 10 not an archive, 11 needs a newer\n"
      "kvpack, 12 damaged, 13 beyond the limits, 20 network, 30 cannot be read.\n\n"
      "Examples:\n"
      "  kvpack verify ctx.kvp\n"
      "  kvpack verify --fast archives/*.kvp && echo all whole");
}

Result<int> run_verify(const VerifyArguments& arguments, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto net, net_options(arguments.net));
  int exit_code = kExitOk;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const std::string& path : arguments.inputs) {
    const auto checked = verify_archive(path, arguments, net, console);
    nlohmann::ordered_json found = {{"path", shown_name(path)}, {"ok", checked.ok()}};
    if (checked.ok()) {
      found["bytes"] = checked->bytes;
      found["tiles"] = checked->tiles;
      found["decoded"] = !arguments.fast;
      if (!arguments.json && !console.quiet()) {
        console.print(fmt::format("{}: ok, {} bytes, {} tiles {}\n", printable(shown_name(path)),
                                  grouped(checked->bytes), grouped(checked->tiles),
                                  arguments.fast ? "(not decoded)" : "decoded"));
      }
    } else {
      const Error error = about_file(checked.error(), path);
      console.error(error);
      found["error"] = {{"kind", error_kind_name(error.kind)}, {"message", error.message}};
      if (exit_code == kExitOk) exit_code = exit_code_of(error.kind);
    }
    json.push_back(std::move(found));
  }
  if (arguments.json) console.print_json({{"archives", std::move(json)}});
  return exit_code;
}

}  // namespace kvpack::cli
