// SPDX-License-Identifier: Apache-2.0
#include "cli/fetch_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/action_text.h"
#include "cli/fetch_decoder.h"
#include "cli/printable.h"
#include "cli/progress.h"
#include "cli/quantities.h"
#include "net/engine/engine_front.h"
#include "net/engine/graft_front.h"
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

std::unique_ptr<ChunkCache> cache_of(const FetchArguments& arguments) {
  if (arguments.cache.empty()) return nullptr;
  return std::make_unique<ChunkCache>(arguments.cache,
                                      static_cast<uint64_t>(arguments.cache_bytes.value_or(kDefaultCacheBytes)));
}

double write_reserve_s(const ArchiveReader& reader, bool in_memory, bool with_engine) {
  const auto raw_bytes = static_cast<double>(context_costs(reader.directory()).raw_bytes);
  return kCommitS + ((in_memory ? 1 : 0) + (with_engine ? 1 : 0)) * raw_bytes / kWriteBytesPerS;
}

// The thread that recomputes the front; null if it cannot be.
Result<std::unique_ptr<EngineFront>> front_of(LlamaServer* engine, const FetchArguments& arguments,
                                              const ArchiveReader& reader) {
  std::unique_ptr<EngineFront> none;
  if (engine == nullptr || arguments.recompute == "never") return none;
  // Positions must be the tokens' indices, or the front is not a prompt.
  auto tokens = read_tokens(reader);
  const auto& sets = reader.shape().token_sets;
  if (!tokens.ok() || sets.size() != 1 || sets[0].positions.size() > tokens->size()) return none;
  for (size_t i = 0; i < sets[0].positions.size(); ++i) {
    if (sets[0].positions[i] != static_cast<int32_t>(i)) return none;
  }
  std::vector<uint32_t> ends;
  for (const ChunkShape& chunk : reader.directory().chunks) ends.push_back(chunk.first_token + chunk.tokens);
  return std::make_unique<EngineFront>(*engine, std::move(*tokens), std::move(ends),
                                       arguments.prefill_tokens_per_s.value_or(kAssumedTokensPerS));
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
  FetchRun(const FetchArguments& arguments, OutputFile* output, const Console& console, NetTime start,
           LlamaServer* engine, const PlanDecoding& plan_decoding)
      : arguments_(arguments),
        output_(output),
        console_(console),
        start_(start),
        engine_(engine),
        plan_decoding_(plan_decoding) {}

  // Errors: the source's, the archive's. A replaced archive: report.replaced, and no file.
  Result<Fetched> run() {
    KVPACK_ASSIGN_OR_RETURN(RangeSourceOptions options, net_options(arguments_.net));
    KVPACK_ASSIGN_OR_RETURN(const auto source, open_range_source(arguments_.input, options));
    FetchedArchive archive(source->size(), source->name());
    archive.add(0, Bytes(source->head().begin(), source->head().end()));
    RangeByteSource remote(*source);
    archive.set_fallback(&remote);
    auto opened = ArchiveReader::open(archive);
    // The sections that say what the context is mostly lie in the head, too.
    Result<DecodeArguments> decoding = opened.ok() ? plan_decoding_(*opened) : opened.error();
    archive.set_fallback(nullptr);
    if (!decoding.ok()) {
      if (!remote.replaced()) return about_file(decoding.error(), printable(source->name()));
      return replaced(*source);
    }
    return fetch(*source, *opened, archive, std::move(*decoding));
  }

 private:
  static Fetched replaced(const RangeSource& source) {
    Fetched fetched;
    fetched.name = source.name();
    fetched.report.replaced = true;
    return fetched;
  }

  Result<Fetched> fetch(RangeSource& source, const ArchiveReader& reader, FetchedArchive& archive,
                        DecodeArguments decoding) {
    const Directory& directory = reader.directory();
    const bool remote = source.origin() != "file";
    std::vector<std::vector<bool>> held(directory.levels, std::vector<bool>(directory.chunks.size()));
    std::unique_ptr<PartFile> part;
    if (remote && !arguments_.output.empty() && arguments_.output != "-") {
      const auto found = [&](uint32_t level, uint32_t chunk, Bytes block) {
        archive.add(directory.block(level, chunk).offset, std::move(block));
        held[level][chunk] = true;
      };
      KVPACK_ASSIGN_OR_RETURN(part, PartFile::open(arguments_.output + ".part", reader.archive_id(), directory, found));
    }
    const bool has_deadline = arguments_.ttft_s.has_value();
    Progress progress(console_, "fetching", context_costs(directory).total_bytes());
    KVPACK_ASSIGN_OR_RETURN(std::unique_ptr<EngineFront> front, front_of(engine_, arguments_, reader));
    // What the engine recomputes replaces the front of a file in memory.
    const bool in_memory = front != nullptr || output_ == nullptr || output_->is_stdout();
    FetchDecoder decoder(reader, {has_deadline ? 1 : directory.levels, std::move(decoding)},
                         in_memory ? nullptr : output_);
    FetchOptions options = options_for(reader, decoder, progress);
    const double reserve_s = write_reserve_s(reader, in_memory, front != nullptr);
    options.backlog_s = [&decoder, reserve_s] { return decoder.backlog_s() + reserve_s; };
    options.engine = front.get();
    std::unique_ptr<ChunkCache> cache = remote ? cache_of(arguments_) : nullptr;
    options.cache = cache.get();
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
    front.reset();  // waits for what the engine is still at: it has one slot
    KVPACK_RETURN_IF_ERROR(decoder.finish());
    fetched.file = decoder.take_file();
    fetched.output_bytes = decoder.file_bytes();
    if (const uint32_t tokens = recomputed_tokens(*report, reader); tokens > 0) {
      KVPACK_ASSIGN_OR_RETURN(auto state, engine_->export_kv());
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
    fetched.part = std::move(part);
    fetched.cache = std::move(cache);
    fetched.origin = remote ? source.origin() : "";
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
  OutputFile* const output_;
  const Console& console_;
  const NetTime start_;
  LlamaServer* const engine_;
  const PlanDecoding& plan_decoding_;
};

}  // namespace

bool Fetched::complete() const {
  return std::all_of(report.actions.begin(), report.actions.end(), [this](const ChunkAction& action) {
    return action.kind != ActionKind::kLoad || action.levels >= levels;
  });
}

void Fetched::clean_up() {
  if (part) part->remove();
  // A slower start next time is all that a failure costs.
  if (!origin.empty()) static_cast<void>(save_throughput(default_cache_folder(), origin, report.memory).ok());
  if (cache) static_cast<void>(cache->clean_up().ok());
}

Result<Fetched> fetch_context(const FetchArguments& arguments, OutputFile* output, const Console& console,
                              NetTime start, LlamaServer* engine, const PlanDecoding& plan_decoding) {
  FetchRun run(arguments, output, console, start, engine, plan_decoding);
  KVPACK_ASSIGN_OR_RETURN(Fetched fetched, run.run());
  if (!fetched.report.replaced) return fetched;
  console.note(printable(fetched.name) + ": was replaced while it was fetched; starting over");
  KVPACK_ASSIGN_OR_RETURN(fetched, run.run());
  if (!fetched.report.replaced) return fetched;
  return Error{ErrorKind::kNetwork, printable(fetched.name) + ": was replaced twice while it was fetched"};
}

void print_fetch_json(const FetchArguments& arguments, const Fetched& fetched, double total_s, bool late,
                      const nlohmann::ordered_json& destination, const Console& console) {
  for (uint32_t chunk = 0; chunk < fetched.report.actions.size(); ++chunk) {
    nlohmann::ordered_json line = json_of_action(chunk, fetched.report.actions[chunk]);
    line["event"] = "chunk";
    console.print(line.dump() + "\n");
  }
  const FetchReport& report = fetched.report;
  nlohmann::ordered_json done = {
      {"event", "done"},
      {"input", fetched.name},
      {"output_bytes", fetched.output_bytes},
      {"archive_bytes", fetched.archive_bytes},
      {"seconds", {{"total", total_s}, {"loaded", report.loaded_s}, {"decode", fetched.decode_busy_s}}},
      {"deadline_s", arguments.ttft_s ? nlohmann::ordered_json(*arguments.ttft_s) : nlohmann::ordered_json()},
      {"late", late},
      {"degraded", report.degraded},
      {"complete", fetched.complete()},
      {"requests", fetched.requests},
      {"bytes", {{"network", report.network_bytes}, {"cache", report.cached_bytes}, {"resumed", report.resumed_bytes}}},
      {"notes", fetched.notes}};
  done.update(destination);
  console.print(done.dump() + "\n");
}

std::string time_of_fetch(const Fetched& fetched, double total_s) {
  return fmt::format("{} (loaded after {}, decoder busy for {})", short_duration(total_s),
                     short_duration(fetched.report.loaded_s), short_duration(fetched.decode_busy_s));
}

std::string sources_of_fetch(const Fetched& fetched) {
  const FetchReport& report = fetched.report;
  std::string sources =
      fmt::format("{} in {} requests", short_bytes(static_cast<double>(report.network_bytes)), fetched.requests);
  if (report.cached_bytes > 0)
    sources += fmt::format(", {} cached", short_bytes(static_cast<double>(report.cached_bytes)));
  if (report.resumed_bytes > 0)
    sources += fmt::format(", {} from before", short_bytes(static_cast<double>(report.resumed_bytes)));
  return sources;
}

}  // namespace kvpack::cli
