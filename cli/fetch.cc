// SPDX-License-Identifier: Apache-2.0
#include "cli/fetch.h"

#include <fmt/format.h>

#include <cmath>

#include "cli/action_text.h"
#include "cli/exit_code.h"
#include "cli/fetch_run.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/quantities.h"
#include "cli/quantity_options.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

void print_report(const FetchArguments& arguments, const Fetched& fetched, double total_s, bool late,
                  const Console& console) {
  const FetchReport& report = fetched.report;
  console.print(console.bold(printable(arguments.output == "-" ? "standard output" : arguments.output)) +
                fmt::format(": {} bytes from {}\n", grouped(fetched.output_bytes), printable(fetched.name)));
  std::string time = time_of_fetch(fetched, total_s);
  if (arguments.ttft_s)
    time += late ? ", late" : fmt::format(", {} before the deadline", short_duration(*arguments.ttft_s - total_s));
  print_fields(
      console,
      {{"chunks", summary_of_actions(report.actions)}, {"fetched", sources_of_fetch(fetched)}, {"time", time}});
  if (arguments.explain) print_actions(console, report.actions);
}

}  // namespace

void declare_fetching(CLI::App& verb, FetchArguments& arguments, const std::string& engine_purpose) {
  declare_profile_of_archive(verb, arguments.profile, arguments.model);
  add_duration(verb, "--ttft", arguments.ttft_s,
               "deadline of the first token: bring what can be had by then (default: everything)");
  add_duration(verb, "--last-prefill", arguments.last_prefill_s,
               "leave so much of it for the prompt's new part (default: nothing)");
  auto* engine = declare_engine(verb, arguments.engine, engine_purpose);
  add_number_above(verb, "--prefill-tok-s", arguments.prefill_tokens_per_s, 0,
                   "its speed, until it has been measured (default: 200)")
      ->needs(engine);
  add_recompute_choice(verb, arguments.recompute)->needs(engine);
  auto* cache = verb.add_option("--cache", arguments.cache, "keep chunks in this folder, and take them from there")
                    ->type_name("FOLDER");
  add_size(verb, "--cache-size", arguments.cache_bytes, "its limit (default: 10GB)")->needs(cache);
  verb.add_option("-j,--threads", arguments.threads, "threads to decode with (default: one per core)")->type_name("N");
  verb.add_flag("--explain", arguments.explain, "print what was done with every chunk; with --json every plan too");
  declare_net_options(verb, arguments.net);
}

void declare_fetch(CLI::App& verb, FetchArguments& arguments) {
  verb.add_option("URL", arguments.input, "archive: http(s)://, s3://, file:// or a path")
      ->type_name("URL")
      ->required();
  verb.add_option("-o,--output", arguments.output, "KV file to write; - for standard output")
      ->type_name(kFileType)
      ->required();
  declare_fetching(verb, arguments, "llama-server that may recompute the context's front where the link is too slow");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing file");
  verb.add_flag("--json", arguments.json, "print JSON Lines: one per chunk, then a summary");
  verb.footer(
      "An interrupted fetch leaves OUTPUT.part; the same command goes on from there. OUTPUT appears whole or not at\n"
      "all, whatever kills the process; with --ttft nobody waits for the disk, so a power cut soon after may halve "
      "it.\n"
      "Exit code: 3 if the file came after the deadline, or without something that time would have allowed.\n\n"
      "Examples:\n"
      "  kvpack fetch https://host/ctx.kvp -o slot.bin\n"
      "  kvpack fetch https://host/ctx.kvp --ttft 1.5s --explain -o slot.bin\n"
      "  kvpack fetch s3://bucket/ctx.kvp --cache ~/.cache/kvpack -o slot.bin");
}

DecodeArguments decoding_of(const FetchArguments& arguments) {
  DecodeArguments decoding;
  decoding.profile = arguments.profile;
  decoding.model = arguments.model;
  decoding.threads = arguments.threads;
  return decoding;
}

Result<int> run_fetch(const FetchArguments& arguments, Console& console) {
  const NetTime start = NetClock::now();
  const Stopwatch watch;
  KVPACK_ASSIGN_OR_RETURN(const auto output,
                          OutputFile::prepare(arguments.output, arguments.overwrite, {arguments.input}));
  if (output->is_stdout()) console.send_reports_to_stderr();
  std::unique_ptr<LlamaServer> engine;
  if (arguments.engine.given()) {
    KVPACK_ASSIGN_OR_RETURN(engine, open_engine(arguments.engine));
  }
  KVPACK_ASSIGN_OR_RETURN(Fetched fetched, fetch_context(arguments, output.get(), console, start, engine.get(),
                                                         [&](const ArchiveReader&) -> Result<DecodeArguments> {
                                                           return decoding_of(arguments);
                                                         }));
  if (fetched.file) KVPACK_RETURN_IF_ERROR(output->write(*fetched.file));
  // A first token does not wait for a disk (nobody knows for how long), and what a power cut takes can be fetched
  // again.
  KVPACK_RETURN_IF_ERROR(output->commit(!arguments.ttft_s));
  const double total_s = watch.seconds();
  const bool late = arguments.ttft_s && total_s + arguments.last_prefill_s.value_or(0) > *arguments.ttft_s;
  for (const std::string& note : fetched.notes) console.note(note);
  if (arguments.json) {
    print_fetch_json(arguments, fetched, total_s, late, {{"output", arguments.output}}, console);
  } else if (!console.quiet()) {
    print_report(arguments, fetched, total_s, late, console);
  }
  fetched.clean_up();
  return int{late || fetched.report.degraded ? kExitLate : kExitOk};
}

}  // namespace kvpack::cli
