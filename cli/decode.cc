// SPDX-License-Identifier: Apache-2.0
#include "cli/decode.h"

#include <fmt/format.h>

#include "cli/decode_plan.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

struct DecodeTimes {
  double decode_seconds = 0;  // what is written while it is decoded included
  double write_seconds = 0;   // what is written afterwards, and until it is on the disk
};

nlohmann::ordered_json json_of(const DecodeArguments& arguments, const ArchiveReader& reader, const DecodePlan& plan,
                               uint64_t output_bytes, const DecodeTimes& times) {
  const uint32_t level = plan.options.level.value_or(reader.directory().levels - 1);
  return {{"input", {{"path", arguments.input}, {"bytes", reader.file_bytes()}}},
          {"output",
           {{"path", arguments.output},
            {"bytes", output_bytes},
            {"format", kv_file_format_name(plan.format)},
            {"restored", plan.restores_source}}},
          {"level", level},
          {"levels", reader.directory().levels},
          {"swa_guard_cell", plan.layout.swa_guard_cell},
          {"seconds", {{"decode", times.decode_seconds}, {"write", times.write_seconds}}},
          {"notes", plan.notes}};
}

void print_summary(const DecodeArguments& arguments, const ArchiveReader& reader, const DecodePlan& plan,
                   uint64_t output_bytes, const DecodeTimes& times, const Console& console) {
  const uint32_t levels = reader.directory().levels;
  console.print(console.bold(printable(arguments.output == "-" ? "standard output" : arguments.output)) +
                fmt::format(": {} -> {} bytes, {}, level {} of 0 to {}\n", grouped(reader.file_bytes()),
                            grouped(output_bytes), plan.restores_source ? "the source's layout" : "converted",
                            plan.options.level.value_or(levels - 1), levels - 1));
  const auto bytes = static_cast<double>(output_bytes);
  print_fields(console,
               {{"time", fmt::format("decode {} ({}), write {} ({})", short_duration(times.decode_seconds),
                                     short_rate(bytes, times.decode_seconds), short_duration(times.write_seconds),
                                     short_rate(bytes, times.write_seconds))}});
}

}  // namespace

void declare_decode(CLI::App& verb, DecodeArguments& arguments) {
  verb.add_option("IN", arguments.input, "archive; - for standard input")->type_name(kFileType)->required();
  verb.add_option("-o,--output", arguments.output, "KV file to write; - for standard output")
      ->type_name(kFileType)
      ->required();
  declare_profile_of_archive(verb, arguments.profile, arguments.model);
  add_range(verb, "--tokens", arguments.tokens, "only tokens at positions A to B-1");
  add_range(verb, "--layers", arguments.layers, "only layers A to B-1");
  verb.add_option("--level", arguments.level, "stop at this level, 0 being the coarsest (default: the best)")
      ->type_name("N");
  add_choice(verb, "--to", arguments.to, {"llama", "safetensors", "npy"}, "format (default: as the source was)");
  verb.add_option("--streams", arguments.streams, "llama: number of streams (llama-server's --parallel)")
      ->type_name("N")
      ->check(CLI::Range(1u, kMaxTokenSets).description(""));
  verb.add_option("--stream", arguments.stream, "llama: the stream that gets the cells")->type_name("N");
  add_choice(verb, "--v-layout", arguments.v_layout, {"row", "transposed"},
             "llama: V by token, or by channel (without flash attention)");
  const std::vector<std::string> cache_types = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"};
  add_choice(verb, "--cache-type-k", arguments.cache_type_k, cache_types, "llama: stored type of K");
  add_choice(verb, "--cache-type-v", arguments.cache_type_v, cache_types, "llama: stored type of V");
  add_choice(verb, "--payload", arguments.payload, {"plain", "packed"},
             "llama: token list as llama.cpp or as llama-server writes it");
  add_choice(verb, "--dtype", arguments.dtype, {"f16", "bf16", "f32"}, "safetensors, npy: type of the values");
  auto* guard = verb.add_flag("--swa-guard-cell", arguments.guard_cell,
                              "llama: add the cell that makes llama-server reuse a sliding-window context");
  verb.add_flag("--no-swa-guard-cell", arguments.no_guard_cell,
                "llama: do not (default: only for lossy archives of llama-server files)")
      ->excludes(guard);
  verb.add_option("-j,--threads", arguments.threads, "threads to use (default: one per core)")->type_name("N");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing file");
  verb.add_flag("--json", arguments.json, "print the summary as JSON");
  verb.footer(
      "Examples:\n"
      "  kvpack decode ctx.kvp -o slot.bin\n"
      "  kvpack decode ctx.kvp --level 0 -o coarse.bin\n"
      "  kvpack decode ctx.kvp --to safetensors --tokens 0:256 --layers 4:8 -o part.safetensors\n"
      "  curl -s https://example.org/ctx.kvp | kvpack decode - -o - > slot.bin");
}

Result<int> run_decode(const DecodeArguments& arguments, Console& console) {
  KVPACK_ASSIGN_OR_RETURN(const auto output,
                          OutputFile::prepare(arguments.output, arguments.overwrite, {arguments.input}));
  if (output->is_stdout()) console.send_reports_to_stderr();
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(arguments.input));
  const ArchiveReader& reader = input->reader();
  const auto identity = read_identity(reader);
  if (!identity.ok()) return about_file(identity.error(), arguments.input);
  KVPACK_ASSIGN_OR_RETURN(DecodePlan plan, plan_decode(arguments, reader, *identity));

  KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile,
                          find_profile_for_archive(arguments.profile, arguments.model, reader, *identity));
  if (profile) plan.options.profile = &profile->profile;
  const bool everything = arguments.tokens.empty() && arguments.layers.empty();
  if (everything) input->read_ahead_to_decode(plan.options.level.value_or(reader.directory().levels - 1) + 1);
  Stopwatch watch;
  DecodeTimes times;
  Progress progress(console, "decoding", identity->source_bytes);
  plan.options.progress = progress.callback();
  const auto bytes = decode_file(reader, *identity, plan, *output);
  progress.clear();
  if (!bytes.ok()) return about_file(bytes.error(), arguments.input);
  times.decode_seconds = watch.lap() - output->write_seconds();
  KVPACK_RETURN_IF_ERROR(output->commit());
  times.write_seconds = output->write_seconds();

  for (const std::string& note : plan.notes) console.note(note);
  if (arguments.json) {
    console.print_json(json_of(arguments, reader, plan, *bytes, times));
  } else if (!console.quiet()) {
    print_summary(arguments, reader, plan, *bytes, times, console);
  }
  return kExitOk;
}

}  // namespace kvpack::cli
