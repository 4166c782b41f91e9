// SPDX-License-Identifier: Apache-2.0
#include "cli/push.h"

#include <fmt/format.h>

#include "cli/exit_code.h"
#include "cli/option_types.h"
#include "cli/printable.h"
#include "cli/progress.h"
#include "net/push.h"
#include "net/url.h"

namespace kvpack::cli {

void declare_push(CLI::App& verb, PushArguments& arguments) {
  verb.add_option("ARCHIVE", arguments.input, "archive to upload")->type_name(kFileType)->required();
  verb.add_option("URL", arguments.url, "http(s):// or s3:// URL; if it ends with /, the archive's name is added")
      ->type_name("URL")
      ->required();
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite another archive under that URL");
  verb.add_option("--part-size", arguments.part_mib, "MiB per part, to S3 (default: 16)")
      ->type_name("MIB")
      ->check(CLI::Range(5, 4096));
  declare_net_options(verb, arguments.net);
  verb.footer(
      "What is there already is not sent again. A large archive goes to S3 in parts; an upload that was interrupted "
      "goes\n"
      "on where it was when the command is repeated.\n\n"
      "Examples:\n"
      "  kvpack push ctx.kvp s3://bucket/contexts/\n"
      "  kvpack push ctx.kvp https://host/dav/ctx.kvp --user me:secret");
}

Result<int> run_push(const PushArguments& arguments, Console& console) {
  PushOptions options;
  KVPACK_ASSIGN_OR_RETURN(options.net, net_options(arguments.net));
  options.overwrite = arguments.overwrite;
  options.part_bytes = arguments.part_mib << 20;
  Progress progress(console, "uploading");
  if (const ProgressFn show = progress.callback()) {
    options.progress = [show](uint64_t done, uint64_t total) { show(done, total, ""); };
  }
  const Stopwatch time;
  const auto report = push_archive(arguments.input, arguments.url, options);
  progress.clear();
  if (!report.ok()) {
    const Error& error = report.error();
    const bool would_overwrite = error.kind == ErrorKind::kInvalidArgument && error.message.ends_with("there already");
    return would_overwrite ? with_hint(error, "--force overwrites it") : error;
  }
  if (console.quiet()) return int{kExitOk};
  const std::string target = printable(printable_url(push_target(arguments.input, arguments.url)));
  if (report->already_there) {
    console.print(fmt::format("{}: there already, {} bytes, nothing sent\n", target, grouped(report->archive_bytes)));
    return int{kExitOk};
  }
  std::string parts;
  if (report->parts > 0) parts = fmt::format(", {} parts", report->parts);
  if (report->resumed_parts > 0) parts += fmt::format(", {} of them sent before", report->resumed_parts);
  const auto sent = static_cast<double>(report->sent_bytes);
  console.print(fmt::format("{}: {} bytes sent{} in {} ({})\n", target, grouped(report->sent_bytes), parts,
                            short_duration(time.seconds()), short_rate(sent, time.seconds())));
  return int{kExitOk};
}

}  // namespace kvpack::cli
