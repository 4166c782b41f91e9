// SPDX-License-Identifier: Apache-2.0
#include "cli/fetch.h"

#include <fmt/format.h>

#include <cmath>

#include "cli/action_text.h"
#include "cli/exit_code.h"
#include "cli/fetch_decoder.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/printable.h"
#include "cli/profile_lookup.h"
#include "cli/progress.h"
#include "cli/quantity_options.h"
#include "cli/table.h"
#include "net/engine/engine_front.h"
#include "net/engine/graft_front.h"
#include "net/engine/llama_server.h"
#include "net/fetcher.h"
#include "net/throughput_store.h"

namespace kvpack::cli {
namespace {

constexpr double kDefaultCacheBytes = 10e9;
// For the file to appear once its last part is decoded, and for the process to end; a deadline has to leave it.
constexpr double kCommitS = 0.08;
// Of a file that is made in memory first. (No sync: the page cache takes it.) As much again where an engine's state is
// saved, read and put before the rest.
constexpr double kWriteBytesPerS = 400e6;
// Of an engine that has not computed anything yet and whose speed was not given: careful.
constexpr double kAssumedTokensPerS = 200;

// One fetch from opening to decoded file.
struct Fetched {
  FetchReport report;
  std::optional<Bytes> file;  // if it is not in the output already
  std::string name;           // of the source, for messages
  uint64_t output_bytes = 0;
  uint64_t archive_bytes = 0;
  uint64_t requests = 0;
  uint32_t levels = 0;
  double decode_busy_s = 0;
  std::vector<std::string> notes;
};

std::unique_ptr<ChunkCache> cache_of(const FetchArguments& arguments) {
  if (arguments.cache.empty()) return nullptr;
  return std::make_unique<ChunkCache>(arguments.cache,
                                      static_cast<uint64_t>(arguments.cache_bytes.value_or(kDefaultCacheBytes)));
}

double write_reserve_s(const ArchiveReader& reader, bool in_memory, bool with_engine) {
  const auto raw_bytes = static_cast<double>(context_costs(reader.directory()).raw_bytes);
  return kCommitS + ((in_memory ? 1 : 0) + (with_engine ? 1 : 0)) * raw_bytes / kWriteBytesPerS;
}

// The engine that may recompute the front, and the thread that drives it.
struct FrontEngine {
  std::unique_ptr<LlamaServer> server;
  std::unique_ptr<EngineFront> front;
};

Result<FrontEngine> front_engine_of(const FetchArguments& arguments, const ArchiveReader& reader) {
  FrontEngine engine;
  if (arguments.engine.empty()) return engine;
  LlamaServerOptions options;
  options.url = arguments.engine;
  options.slot_folder = arguments.slot_folder;
  options.slot = arguments.slot;
  KVPACK_ASSIGN_OR_RETURN(engine.server, LlamaServer::create(std::move(options)));
  KVPACK_RETURN_IF_ERROR(engine.server->check_health());
  // Positions must be the tokens' indices, or the front is not a prompt.
  auto tokens = read_tokens(reader);
  const auto& sets = reader.shape().token_sets;
  if (!tokens.ok() || sets.size() != 1 || sets[0].positions.size() > tokens->size()) return engine;
  for (size_t i = 0; i < sets[0].positions.size(); ++i) {
    if (sets[0].positions[i] != static_cast<int32_t>(i)) return engine;
  }
  std::vector<uint32_t> ends;
  for (const ChunkShape& chunk : reader.directory().chunks) ends.push_back(chunk.first_token + chunk.tokens);
  engine.front = std::make_unique<EngineFront>(*engine.server, std::move(*tokens), std::move(ends),
                                               arguments.prefill_tokens_per_s.value_or(kAssumedTokensPerS));
  return engine;
}

// Tokens of the chunks that were recomputed from the front on.
uint32_t recomputed_tokens(const FetchReport& report, const ArchiveReader& reader) {
  uint32_t tokens = 0;
  for (size_t chunk = 0; chunk < report.actions.size(); ++chunk) {
    if (report.actions[chunk].kind != ActionKind::kRecompute) break;
    tokens += reader.directory().chunks[chunk].tokens;
  }
  return tokens;
}

class FetchRun {
 public:
  FetchRun(const FetchArguments& arguments, OutputFile& output, const Console& console, NetTime start)
      : arguments_(arguments), output_(output), console_(console), start_(start), cache_(cache_of(arguments)) {}

  // Errors: the source's, the archive's. A replaced archive: report.replaced, and no file.
  Result<Fetched> run() {
    KVPACK_ASSIGN_OR_RETURN(RangeSourceOptions options, net_options(arguments_.net));
    KVPACK_ASSIGN_OR_RETURN(const auto source, open_range_source(arguments_.input, options));
    FetchedArchive archive(source->size(), source->name());
    archive.add(0, Bytes(source->head().begin(), source->head().end()));
    RangeByteSource remote(*source);
    archive.set_fallback(&remote);
    auto opened = ArchiveReader::open(archive);
    archive.set_fallback(nullptr);
    if (!opened.ok()) {
      if (!remote.replaced()) return about_file(opened.error(), printable(source->name()));
      return replaced(*source);
    }
    return fetch(*source, *opened, archive);
  }

  // What no first token has to wait for, once the file is there.
  void clean_up(const FetchReport& report) {
    if (part_) part_->remove();
    // A slower start next time is all that a failure costs.
    if (!origin_.empty()) static_cast<void>(save_throughput(default_cache_folder(), origin_, report.memory).ok());
    if (cache_ != nullptr) static_cast<void>(cache_->clean_up().ok());
  }

 private:
  static Fetched replaced(const RangeSource& source) {
    Fetched fetched;
    fetched.name = source.name();
    fetched.report.replaced = true;
    return fetched;
  }

  Result<Fetched> fetch(RangeSource& source, const ArchiveReader& reader, FetchedArchive& archive) {
    const Directory& directory = reader.directory();
    const bool remote = source.origin() != "file";
    std::vector<std::vector<bool>> held(directory.levels, std::vector<bool>(directory.chunks.size()));
    std::unique_ptr<PartFile> part;
    if (remote && arguments_.output != "-") {
      const auto found = [&](uint32_t level, uint32_t chunk, Bytes block) {
        archive.add(directory.block(level, chunk).offset, std::move(block));
        held[level][chunk] = true;
      };
      KVPACK_ASSIGN_OR_RETURN(part, PartFile::open(arguments_.output + ".part", reader.archive_id(), directory, found));
    }
    const bool has_deadline = arguments_.ttft_s.has_value();
    Progress progress(console_, "fetching", context_costs(directory).total_bytes());
    KVPACK_ASSIGN_OR_RETURN(FrontEngine engine, front_engine_of(arguments_, reader));
    // What the engine recomputes replaces the front of a file in memory.
    const bool in_memory = engine.front != nullptr || output_.is_stdout();
    FetchDecoder decoder(
        reader, {has_deadline ? 1 : directory.levels, arguments_.threads, arguments_.profile, arguments_.model},
        in_memory ? nullptr : &output_);
    FetchOptions options = options_for(reader, decoder, progress);
    const double reserve_s = write_reserve_s(reader, in_memory, engine.front != nullptr);
    options.backlog_s = [&decoder, reserve_s] { return decoder.backlog_s() + reserve_s; };
    options.engine = engine.front.get();
    options.cache = remote ? cache_.get() : nullptr;
    options.part = part.get();
    if (remote) options.memory = load_throughput(default_cache_folder(), source.origin()).value_or(ThroughputMemory{});
    auto report = fetch_archive(source, reader, archive, held, options);
    progress.clear();
    if (!report.ok()) {
      return part ? with_hint(report.error(), "what has come is kept; the same command goes on from there")
                  : report.error();
    }
    if (report->replaced) return replaced(source);
    Fetched fetched;
    engine.front.reset();  // waits for what the engine is still at: it has one slot
    KVPACK_RETURN_IF_ERROR(decoder.finish());
    fetched.file = decoder.take_file();
    fetched.output_bytes = decoder.file_bytes();
    if (const uint32_t tokens = recomputed_tokens(*report, reader); tokens > 0) {
      KVPACK_ASSIGN_OR_RETURN(Bytes state, engine.server->export_kv());
      KVPACK_ASSIGN_OR_RETURN(fetched.file, graft_front(std::move(*fetched.file), std::move(state), tokens));
      fetched.output_bytes = fetched.file->size();
    }
    fetched.name = source.name();
    fetched.archive_bytes = source.size();
    fetched.requests = source.counters().requests;
    fetched.levels = directory.levels;
    fetched.decode_busy_s = decoder.busy_s();
    fetched.notes = report->notes;
    fetched.notes.insert(fetched.notes.end(), decoder.notes().begin(), decoder.notes().end());
    fetched.report = std::move(*report);
    part_ = std::move(part);
    origin_ = remote ? source.origin() : "";
    return fetched;
  }

  FetchOptions options_for(const ArchiveReader& reader, FetchDecoder& decoder, Progress& progress) {
    FetchOptions options;
    options.start = start_;
    options.goal.deadline_s = arguments_.ttft_s.value_or(kNoDeadline);
    options.goal.last_prefill_s = arguments_.last_prefill_s.value_or(0);
    options.goal.recompute = recompute_mode(arguments_.recompute);
    options.on_open = [&decoder] { decoder.open(); };
    options.on_chunk = [&decoder](uint32_t chunk, uint32_t levels) { decoder.offer(chunk, levels); };
    const ProgressFn show = progress.callback();
    const uint32_t levels = reader.directory().levels;
    options.on_plan = [this, show, levels](const Plan& plan, const FetchProgress& now) {
      if (show) {
        const uint32_t next = std::min(now.lowest_level, levels - 1);
        show(now.held_bytes, now.total_bytes,
             next == 0 ? std::string("fetching the base") : fmt::format("fetching level {} of {}", next, levels - 1));
      }
      if (arguments_.json && arguments_.explain) print_plan(plan, now);
    };
    return options;
  }

  void print_plan(const Plan& plan, const FetchProgress& now) const {
    const nlohmann::ordered_json line = {{"event", "plan"},
                                         {"time_s", now.now_s},
                                         {"bytes", now.held_bytes},
                                         {"bytes_per_s", now.bytes_per_s},
                                         {"base_is_safe", plan.base_is_safe},
                                         {"expected_ready_s", plan.expected_ready_s},
                                         {"ranges", plan.next.size()},
                                         {"plan", summary_of_actions(plan.actions)}};
    console_.print(line.dump() + "\n");
  }

  const FetchArguments& arguments_;
  OutputFile& output_;
  const Console& console_;
  const NetTime start_;
  std::unique_ptr<ChunkCache> cache_;
  std::unique_ptr<PartFile> part_;  // of a fetch that succeeded
  std::string origin_;              // of it, if it is a host
};

bool complete(const Fetched& fetched) {
  for (const ChunkAction& action : fetched.report.actions) {
    if (action.kind == ActionKind::kLoad && action.levels < fetched.levels) return false;
  }
  return true;
}

void print_json_lines(const FetchArguments& arguments, const Fetched& fetched, double total_s, bool late,
                      const Console& console) {
  for (uint32_t chunk = 0; chunk < fetched.report.actions.size(); ++chunk) {
    nlohmann::ordered_json line = json_of_action(chunk, fetched.report.actions[chunk]);
    line["event"] = "chunk";
    console.print(line.dump() + "\n");
  }
  const FetchReport& report = fetched.report;
  const nlohmann::ordered_json done = {
      {"event", "done"},
      {"input", fetched.name},
      {"output", arguments.output},
      {"output_bytes", fetched.output_bytes},
      {"archive_bytes", fetched.archive_bytes},
      {"seconds", {{"total", total_s}, {"loaded", report.loaded_s}, {"decode", fetched.decode_busy_s}}},
      {"deadline_s", arguments.ttft_s ? nlohmann::ordered_json(*arguments.ttft_s) : nlohmann::ordered_json()},
      {"late", late},
      {"degraded", report.degraded},
      {"complete", complete(fetched)},
      {"requests", fetched.requests},
      {"bytes", {{"network", report.network_bytes}, {"cache", report.cached_bytes}, {"resumed", report.resumed_bytes}}},
      {"notes", fetched.notes}};
  console.print(done.dump() + "\n");
}

void print_report(const FetchArguments& arguments, const Fetched& fetched, double total_s, bool late,
                  const Console& console) {
  const FetchReport& report = fetched.report;
  console.print(console.bold(printable(arguments.output == "-" ? "standard output" : arguments.output)) +
                fmt::format(": {} bytes from {}\n", grouped(fetched.output_bytes), printable(fetched.name)));
  std::string sources =
      fmt::format("{} in {} requests", short_bytes(static_cast<double>(report.network_bytes)), fetched.requests);
  if (report.cached_bytes > 0)
    sources += fmt::format(", {} cached", short_bytes(static_cast<double>(report.cached_bytes)));
  if (report.resumed_bytes > 0)
    sources += fmt::format(", {} from before", short_bytes(static_cast<double>(report.resumed_bytes)));
  std::string time = fmt::format("{} (loaded after {}, decoder busy for {})", short_duration(total_s),
                                 short_duration(report.loaded_s), short_duration(fetched.decode_busy_s));
  if (arguments.ttft_s)
    time += late ? ", late" : fmt::format(", {} before the deadline", short_duration(*arguments.ttft_s - total_s));
  print_fields(console, {{"chunks", summary_of_actions(report.actions)}, {"fetched", sources}, {"time", time}});
  if (arguments.explain) print_actions(console, report.actions);
}

// A replaced archive is begun again once.
Result<Fetched> fetch_or_restart(FetchRun& run, const Console& console) {
  KVPACK_ASSIGN_OR_RETURN(Fetched fetched, run.run());
  if (!fetched.report.replaced) return fetched;
  console.note(printable(fetched.name) + ": was replaced while it was fetched; starting over");
  KVPACK_ASSIGN_OR_RETURN(fetched, run.run());
  if (!fetched.report.replaced) return fetched;
  return Error{ErrorKind::kNetwork, printable(fetched.name) + ": was replaced twice while it was fetched"};
}

}  // namespace

void declare_fetch(CLI::App& verb, FetchArguments& arguments) {
  verb.add_option("URL", arguments.input, "archive: http(s)://, s3://, file:// or a path")
      ->type_name("URL")
      ->required();
  verb.add_option("-o,--output", arguments.output, "KV file to write; - for standard output")
      ->type_name(kFileType)
      ->required();
  declare_profile_of_archive(verb, arguments.profile, arguments.model);
  add_duration(verb, "--ttft", arguments.ttft_s,
               "deadline of the first token: bring what can be had by then (default: everything)");
  add_duration(verb, "--last-prefill", arguments.last_prefill_s,
               "leave so much of it for the prompt's new part (default: nothing)");
  auto* engine = verb.add_option("--engine", arguments.engine,
                                 "llama-server that may recompute the context's front where the link is too slow")
                     ->type_name("URL");
  verb.add_option("--slot-save-path", arguments.slot_folder, "the folder it was started with, as seen from here")
      ->type_name("FOLDER")
      ->needs(engine);
  engine->needs("--slot-save-path");
  verb.add_option("--slot", arguments.slot, "the slot it may use (default: 0)")->type_name("N")->needs(engine);
  add_number_above(verb, "--prefill-tok-s", arguments.prefill_tokens_per_s, 0,
                   "its speed, until it has been measured (default: 200)")
      ->needs(engine);
  add_recompute_choice(verb, arguments.recompute)->needs(engine);
  auto* cache = verb.add_option("--cache", arguments.cache, "keep chunks in this folder, and take them from there")
                    ->type_name("FOLDER");
  add_size(verb, "--cache-size", arguments.cache_bytes, "its limit (default: 10GB)")->needs(cache);
  verb.add_option("-j,--threads", arguments.threads, "threads to decode with (default: one per core)")->type_name("N");
  verb.add_flag("--explain", arguments.explain, "print what was done with every chunk; with --json every plan too");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing file");
  verb.add_flag("--json", arguments.json, "print JSON Lines: one per chunk, then a summary");
  declare_net_options(verb, arguments.net);
  verb.footer(
      "An interrupted fetch leaves OUTPUT.part; the same command goes on from there. OUTPUT appears whole or not at\n"
      "all, whatever kills the process; with --ttft nobody waits for the disk, so a power cut soon after may halve it.\n"
      "Exit code: 3 if the file came after the deadline, or without something that time would have allowed.\n\n"
      "Examples:\n"
      "  kvpack fetch https://host/ctx.kvp -o slot.bin\n"
      "  kvpack fetch https://host/ctx.kvp --ttft 1.5s --explain -o slot.bin\n"
      "  kvpack fetch s3://bucket/ctx.kvp --cache ~/.cache/kvpack -o slot.bin");
}

Result<int> run_fetch(const FetchArguments& arguments, Console& console) {
  const NetTime start = NetClock::now();
  const Stopwatch watch;
  KVPACK_ASSIGN_OR_RETURN(const auto output,
                          OutputFile::prepare(arguments.output, arguments.overwrite, {arguments.input}));
  if (output->is_stdout()) console.send_reports_to_stderr();
  FetchRun run(arguments, *output, console, start);
  KVPACK_ASSIGN_OR_RETURN(const Fetched fetched, fetch_or_restart(run, console));
  if (fetched.file) KVPACK_RETURN_IF_ERROR(output->write(*fetched.file));
  // A first token does not wait for a disk (nobody knows for how long), and what a power cut takes can be fetched
  // again.
  KVPACK_RETURN_IF_ERROR(output->commit(!arguments.ttft_s));
  const double total_s = watch.seconds();
  const bool late = arguments.ttft_s && total_s + arguments.last_prefill_s.value_or(0) > *arguments.ttft_s;
  for (const std::string& note : fetched.notes) console.note(note);
  if (arguments.json) {
    print_json_lines(arguments, fetched, total_s, late, console);
  } else if (!console.quiet()) {
    print_report(arguments, fetched, total_s, late, console);
  }
  run.clean_up(fetched.report);
  return int{late || fetched.report.degraded ? kExitLate : kExitOk};
}

}  // namespace kvpack::cli
