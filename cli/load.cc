// SPDX-License-Identifier: Apache-2.0
#include "cli/load.h"

#include <fmt/format.h>

#include "cli/action_text.h"
#include "cli/decode_plan.h"
#include "cli/exit_code.h"
#include "cli/fetch_run.h"
#include "cli/input_file.h"
#include "cli/load_check.h"
#include "cli/option_types.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/quantities.h"
#include "cli/table.h"

namespace kvpack::cli {
namespace {

constexpr uint64_t kMaxThenBytes = 64ull << 20;

// What became of the state in the engine.
struct Restored {
  double restore_s = 0;  // handing it over
  double compute_s = 0;  // everything after that, calls and all
  uint32_t reused_tokens = 0;
  uint32_t computed_tokens = 0;
  bool checked = false;
};

// Standard input is no place to fetch from by plan: it is read to its end.
Result<Fetched> read_from_stdin(const FetchArguments& arguments, const PlanDecoding& plan_decoding) {
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(arguments.input));
  const ArchiveReader& reader = input->reader();
  const Stopwatch watch;
  KVPACK_ASSIGN_OR_RETURN(const DecodeArguments decoding, plan_decoding(reader));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader));
  KVPACK_ASSIGN_OR_RETURN(DecodePlan plan, plan_decode(decoding, reader, identity));
  KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile,
                          find_profile_for_archive(decoding.profile, decoding.model, reader, identity));
  if (profile) plan.options.profile = &profile->profile;
  Fetched fetched;
  KVPACK_ASSIGN_OR_RETURN(fetched.file, decode_file(reader, identity, plan));
  fetched.output_bytes = fetched.file->size();
  fetched.name = "standard input";
  fetched.archive_bytes = reader.file_bytes();
  fetched.levels = reader.directory().levels;
  fetched.report.actions.assign(reader.directory().chunks.size(), {ActionKind::kLoad, fetched.levels});
  fetched.notes = plan.notes;
  fetched.decode_busy_s = watch.seconds();
  return fetched;
}

// The restored prompt, and what follows it: the engine has to reuse the one and compute the other.
Status check_reuse(LlamaServer& engine, const LoadTarget& target, std::span<const int32_t> rest, Restored& restored) {
  if (target.has_opaque_state && rest.empty()) return {};  // reused only by a longer prompt
  std::vector<int32_t> prompt = target.front;
  for (const std::span<const int32_t> part : {std::span(target.tokens), rest}) {
    prompt.insert(prompt.end(), part.begin(), part.end());
  }
  KVPACK_ASSIGN_OR_RETURN(const PrefillReport report, engine.prefill(prompt));
  restored.reused_tokens = report.reused_tokens;
  restored.computed_tokens = report.computed_tokens;
  restored.checked = true;
  // The server always computes the prompt's last token.
  const size_t expected = prompt.size() - rest.size() - (rest.empty() ? 1 : 0);
  if (report.reused_tokens >= expected) return {};
  return Error{ErrorKind::kNetwork,
               fmt::format("{} took the context, but reuses {} of its {} tokens: it computed the others anew",
                           engine.name(), report.reused_tokens, prompt.size() - rest.size())};
}

// How many tokens the engine took: all, or those behind what it holds.
Result<uint32_t> import_into(LlamaServer& engine, const LoadTarget& target, ByteSpan state) {
  if (target.front.empty()) return engine.import_kv(state);
  KVPACK_ASSIGN_OR_RETURN(const TokenRange range, engine.import_range(state));
  return range.end - range.begin;
}

Result<Restored> hand_over(LlamaServer& engine, const LoadTarget& target, ByteSpan state,
                           std::span<const int32_t> rest) {
  Restored restored;
  Stopwatch watch;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t tokens, import_into(engine, target, state));
  restored.restore_s = watch.lap();
  if (tokens != target.tokens.size()) {
    return Error{ErrorKind::kNetwork,
                 fmt::format("{} restored {} tokens, the context has {}", engine.name(), tokens, target.tokens.size())};
  }
  KVPACK_RETURN_IF_ERROR(check_reuse(engine, target, rest, restored));
  restored.compute_s = watch.lap();
  return restored;
}

nlohmann::ordered_json json_of(const LoadArguments& arguments, const LlamaServer& engine, const LoadTarget& target,
                               const Restored& restored) {
  return {
      {"engine", engine.name()},
      {"slot", arguments.fetch.engine.slot},
      {"tokens", target.tokens.size()},
      {"reused_tokens", restored.checked ? nlohmann::ordered_json(restored.reused_tokens) : nlohmann::ordered_json()},
      {"computed_tokens", restored.computed_tokens},
      {"restore_s", restored.restore_s},
      {"compute_s", restored.compute_s}};
}

void print_report(const LoadArguments& arguments, const Fetched& fetched, const LlamaServer& engine,
                  const LoadTarget& target, const Restored& restored, double total_s, const Console& console) {
  console.print(console.bold(fmt::format("slot {} of {}", arguments.fetch.engine.slot, printable(engine.name()))) +
                fmt::format(": {} tokens from {}\n", grouped(target.tokens.size()), printable(fetched.name)));
  std::string reuse = "not checked: a recurrent state is reused only by a longer prompt";
  if (restored.checked) {
    reuse = fmt::format("{} tokens reused, {} computed in {}", grouped(restored.reused_tokens),
                        grouped(restored.computed_tokens), short_duration(restored.compute_s));
  }
  print_fields(console, {{"chunks", summary_of_actions(fetched.report.actions)},
                         {"fetched", sources_of_fetch(fetched)},
                         {"time", time_of_fetch(fetched, total_s)},
                         {"restored", fmt::format("{} in {}", short_bytes(static_cast<double>(fetched.output_bytes)),
                                                  short_duration(restored.restore_s))},
                         {"prompt", reuse}});
  if (arguments.fetch.explain) print_actions(console, fetched.report.actions);
}

}  // namespace

void declare_load(CLI::App& verb, LoadArguments& arguments) {
  verb.add_option("IN", arguments.fetch.input, "archive: a path, http(s)://, s3://, file://, or - for standard input")
      ->type_name(kFileType)
      ->required();
  declare_fetching(verb, arguments.fetch, "the engine that gets the context");
  verb.get_option("--engine")->required();
  verb.get_option("--model")->description("the model file that the engine runs (default: the one that it names)");
  verb.add_option("--then", arguments.then,
                  "text that follows the context (- for standard input): the engine computes it, so that it can answer")
      ->type_name(kFileType);
  verb.add_flag("--convert", arguments.convert, "requantize a context of another cache type (-ctk, -ctv)");
  verb.add_flag("--trust-model", arguments.trust_model,
                "load although nobody can tell whether the model is the same; shapes are checked all the same");
  verb.add_flag("--json", arguments.fetch.json, "print JSON Lines: one per chunk, then a summary");
  verb.footer(
      "Model, context size and cache type are compared first; nothing reaches the engine that does not fit. "
      "Afterwards\n"
      "the engine has to show that it reuses what it took.\n"
      "Exit code: 3 if the context came after the deadline, or without something that time would have allowed.\n\n"
      "Examples:\n"
      "  kvpack load ctx.kvp --engine llama-server=http://127.0.0.1:8080 --slot-save-path slots\n"
      "  kvpack load https://host/ctx.kvp --ttft 1.5s --engine llama-server=http://127.0.0.1:8080 \\\n"
      "      --slot-save-path slots --then question.txt");
}

Result<int> run_load(const LoadArguments& arguments, Console& console) {
  const NetTime start = NetClock::now();
  const Stopwatch watch;
  if (arguments.then == "-" && arguments.fetch.input == "-") {
    return invalid_argument("standard input cannot be both the archive and the text after it");
  }
  KVPACK_ASSIGN_OR_RETURN(const auto engine, open_engine(arguments.fetch.engine));
  std::vector<int32_t> rest;
  if (!arguments.then.empty()) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes text, read_input(arguments.then, kMaxThenBytes));
    KVPACK_ASSIGN_OR_RETURN(rest, engine->tokenize(std::string(as_text(text)), PromptPart::kContinuation));
  }
  LoadTarget target;
  const PlanDecoding plan_decoding = [&](const ArchiveReader& reader) -> Result<DecodeArguments> {
    KVPACK_ASSIGN_OR_RETURN(
        target, check_load(reader, *engine, {arguments.fetch.model, arguments.convert, arguments.trust_model},
                           decoding_of(arguments.fetch)));
    return target.decoding;
  };
  KVPACK_ASSIGN_OR_RETURN(Fetched fetched,
                          arguments.fetch.input == "-"
                              ? read_from_stdin(arguments.fetch, plan_decoding)
                              : fetch_context(arguments.fetch, nullptr, console, start, engine.get(), plan_decoding));
  KVPACK_ASSIGN_OR_RETURN(const Restored restored, hand_over(*engine, target, *fetched.file, rest));
  const double total_s = watch.seconds();
  const bool late = arguments.fetch.ttft_s && total_s > *arguments.fetch.ttft_s;
  for (const std::string& note : target.notes) console.note(note);
  for (const std::string& note : fetched.notes) console.note(note);
  if (arguments.fetch.json) {
    print_fetch_json(arguments.fetch, fetched, total_s, late, json_of(arguments, *engine, target, restored), console);
  } else if (!console.quiet()) {
    print_report(arguments, fetched, *engine, target, restored, total_s, console);
  }
  fetched.clean_up();
  return int{late || fetched.report.degraded ? kExitLate : kExitOk};
}

}  // namespace kvpack::cli
