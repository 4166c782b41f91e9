// SPDX-License-Identifier: Apache-2.0
#include "net/fetcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <thread>

#include "net/block_check.h"
#include "net/fetch_layout.h"

namespace kvpack {
namespace {

constexpr double kTickS = 0.05;                   // how often a quiet link is looked at
constexpr double kEngineTickS = 0.005;            // and an engine at work: it waits for its next chunk until it is seen
constexpr double kSaveAfterS = 0.5;               // what comes faster than that is sooner fetched again than kept
constexpr uint64_t kPartBytes = 4 << 20;          // of a large archive, per range, if all of it is wanted
constexpr uint64_t kOrderedPartBytes = 32 << 20;  // before a deadline, where parts side by side delay the first
constexpr uint64_t kMaxReservedBytes = 16 << 20;  // for a block, before it has come
constexpr uint32_t kMaxBlockAttempts = 2;         // a block that arrives damaged is asked for once more

// A range under way: bytes gather until a block is whole.
struct Transfer {
  BlockRange blocks;
  RangeId id = 0;
  uint64_t lead_left = 0;
  size_t next_block = 0;
  Bytes gathered;
  bool cancelled = false;
  bool done = false;
};

class Fetch {
 public:
  Fetch(RangeSource& source, const ArchiveReader& reader, FetchedArchive& archive, const FetchOptions& options)
      : source_(source),
        directory_(reader.directory()),
        archive_id_(reader.archive_id()),
        archive_(archive),
        options_(options),
        costs_(context_costs(reader.directory())),
        state_(costs_.chunks()),
        estimator_(options.memory),
        meter_(estimator_),
        here_(directory_.levels, std::vector<bool>(costs_.chunks())),
        attempts_(directory_.levels, std::vector<uint32_t>(costs_.chunks())) {}

  Result<FetchReport> run(const std::vector<std::vector<bool>>& held) {
    take_opening();
    take_held(held);
    if (options_.cache != nullptr) take_cached();
    lead_pending_ = lead_end_ > lead_begin_;
    if (!lead_pending_ && options_.on_open) options_.on_open();
    while (true) {
      KVPACK_RETURN_IF_ERROR(ask_engine());
      if (changed_ || clock() >= look_again_s_) plan_and_request();
      if (finished()) break;
      const double until_s = std::min({look_again_s_, plan_.stop_s, clock() + tick_s()});
      wait_until(until_s);
      if (report_.replaced) break;
      if (failure_ || clock() >= kSaveAfterS) KVPACK_RETURN_IF_ERROR(save_part());
      if (failure_) {
        if (!can_do_without()) return *failure_;
        break;
      }
    }
    cancel_all();
    return report();
  }

 private:
  double clock() const { return std::chrono::duration<double>(NetClock::now() - options_.start).count(); }

  // What the opening request brought: sections, and often the first blocks.
  void take_opening() {
    const ByteSpan head = source_.head();
    estimator_.add({head.size(), std::max(clock(), 1e-6), true});
    archive_.add(0, Bytes(head.begin(), head.end()));
    lead_begin_ = std::min<uint64_t>(costs_.opening_bytes, head.size());
    lead_end_ = costs_.opening_bytes;
    state_.sections_missing_bytes = lead_end_ - lead_begin_;
    for (uint32_t level = 0; level < directory_.levels; ++level) {
      for (uint32_t chunk = 0; chunk < costs_.chunks(); ++chunk) {
        const BlockEntry& block = directory_.block(level, chunk);
        if (block.offset + block.bytes > head.size()) return;
        if (!check_block(directory_, level, chunk, head.subspan(block.offset, block.bytes)).ok()) continue;
        here_[level][chunk] = true;
        note_chunk(chunk);
      }
    }
  }

  void take_held(const std::vector<std::vector<bool>>& held) {
    for (uint32_t level = 0; level < held.size(); ++level) {
      for (uint32_t chunk = 0; chunk < costs_.chunks(); ++chunk) {
        if (!held[level][chunk] || here_[level][chunk]) continue;
        here_[level][chunk] = true;
        report_.resumed_bytes += directory_.block(level, chunk).bytes;
        note_chunk(chunk);
      }
    }
  }

  void take_cached() {
    for (uint32_t chunk = 0; chunk < costs_.chunks(); ++chunk) {
      for (uint32_t level = 0; level < directory_.levels; ++level) {
        if (here_[level][chunk]) continue;
        auto block = options_.cache->load(archive_id_, directory_, level, chunk);
        if (!block) break;
        report_.cached_bytes += block->size();
        archive_.add(directory_.block(level, chunk).offset, std::move(*block));
        here_[level][chunk] = true;
        note_chunk(chunk);
      }
    }
  }

  // Levels count only without a gap.
  void note_chunk(uint32_t chunk) {
    uint8_t& held = state_.held[chunk];
    const uint8_t before = held;
    while (held < directory_.levels && here_[held][chunk]) ++held;
    state_.requested[chunk] = std::max(state_.requested[chunk], held);
    changed_ = true;
    if (held > before && options_.on_chunk) options_.on_chunk(chunk, held);
  }

  PlanGoal goal() const {
    PlanGoal goal = options_.goal;
    if (options_.backlog_s) goal.last_prefill_s += options_.backlog_s();
    const bool engine = options_.engine != nullptr && !engine_failed_;
    goal.prefill_tokens_per_s = engine ? options_.engine->prefill_tokens_per_s() : 0;
    return goal;
  }

  void make_new_plan() {
    state_.now_s = clock();
    state_.silent_s = meter_.silent_s(state_.now_s);
    plan_ = make_plan(costs_, goal(), estimator_.estimate(), state_);
  }

  void plan_and_request() {
    changed_ = false;
    std::vector<RangeStep> steps;
    std::vector<uint8_t> levels_held = state_.requested;
    // Without a deadline all of it is asked for at once, in as few ranges as the file has gaps.
    do {
      make_new_plan();
      for (const RangeStep& step : plan_.next) {
        steps.push_back(step);
        mark_requested(step);
      }
    } while (!plan_.next.empty() && !std::isfinite(options_.goal.deadline_s));
    look_again_s_ = plan_.look_again_s;
    if (options_.on_plan) options_.on_plan(plan_, progress());
    if (plan_.run_engine && !state_.engine_running && options_.engine != nullptr &&
        engine_chunk_pays(costs_, goal(), estimator_.estimate(), state_)) {
      options_.engine->begin_chunk(state_.computed_front());
      state_.engine_running = true;
      engine_begin_s_ = state_.now_s;
    }
    LayoutOptions layout;
    layout.complete_chunks = !std::isfinite(options_.goal.deadline_s);
    layout.split_bytes = layout.complete_chunks ? kPartBytes : kOrderedPartBytes;
    layout.lead_begin = lead_begin_;
    layout.lead_end = lead_end_;
    lead_begin_ = lead_end_;
    for (BlockRange& range : lay_out(directory_, steps, levels_held, layout)) request(std::move(range));
  }

  void mark_requested(const RangeStep& step) {
    for (uint32_t chunk = step.first_chunk; chunk < step.first_chunk + step.chunks; ++chunk) {
      const auto levels = static_cast<uint8_t>(step.first_level + step.levels);
      for (uint32_t level = state_.requested[chunk]; level < levels; ++level) {
        if (!here_[level][chunk]) state_.bytes_on_the_way += directory_.block(level, chunk).bytes;
      }
      state_.requested[chunk] = std::max(state_.requested[chunk], levels);
    }
  }

  void request(BlockRange blocks) {
    Transfer& transfer = transfers_.emplace_back();
    transfer.lead_left = blocks.lead_bytes;
    transfer.blocks = std::move(blocks);
    RangeRequest request;
    request.range = transfer.blocks.range;
    request.on_bytes = [this, &transfer](ByteSpan bytes) { return receive(transfer, bytes); };
    request.on_done = [this, &transfer](const RangeOutcome& outcome) { end(transfer, outcome); };
    ++report_.ranges;
    meter_.begin(clock());
    transfer.id = source_.start(std::move(request));
  }

  Status receive(Transfer& transfer, ByteSpan bytes) {
    meter_.deliver(clock(), bytes.size());
    while (!bytes.empty()) {
      const bool lead = transfer.lead_left > 0;
      const uint64_t wanted = lead ? transfer.lead_left : block_entry(transfer).bytes - transfer.gathered.size();
      const ByteSpan part = bytes.first(std::min<uint64_t>(wanted, bytes.size()));
      if (transfer.gathered.empty()) transfer.gathered.reserve(std::min<uint64_t>(wanted, kMaxReservedBytes));
      bytes = bytes.subspan(part.size());
      transfer.gathered.insert(transfer.gathered.end(), part.begin(), part.end());
      if (lead) {
        transfer.lead_left -= part.size();
        state_.sections_missing_bytes -= part.size();
        if (transfer.lead_left == 0) take_lead(transfer);
      } else if (transfer.gathered.size() == block_entry(transfer).bytes) {
        KVPACK_RETURN_IF_ERROR(take_block(transfer));
      }
    }
    return {};
  }

  const BlockEntry& block_entry(const Transfer& transfer) const {
    const BlockRange::Block& block = transfer.blocks.blocks[transfer.next_block];
    return directory_.block(block.level, block.chunk);
  }

  void take_lead(Transfer& transfer) {
    archive_.add(transfer.blocks.range.offset, std::move(transfer.gathered));
    transfer.gathered = {};
    lead_pending_ = false;
    if (options_.on_open) options_.on_open();
  }

  Status take_block(Transfer& transfer) {
    const auto [level, chunk] = transfer.blocks.blocks[transfer.next_block++];
    Bytes block = std::move(transfer.gathered);
    transfer.gathered = {};
    state_.bytes_on_the_way -= std::min<uint64_t>(state_.bytes_on_the_way, block.size());
    report_.network_bytes += block.size();
    report_.loaded_s = clock();
    if (const Status sound = check_block(directory_, level, chunk, block); !sound.ok()) {
      return damaged(level, chunk, sound.error());
    }
    if (options_.part != nullptr) unsaved_.push_back({level, chunk});
    if (options_.cache != nullptr && cache_works_) {
      // A full disk must not stop a fetch.
      const Status stored = options_.cache->store(archive_id_, directory_, level, chunk, block);
      if (!stored.ok()) {
        cache_works_ = false;
        report_.notes.push_back("not cached: " + stored.error().message);
      }
    }
    archive_.add(directory_.block(level, chunk).offset, std::move(block));
    here_[level][chunk] = true;
    note_chunk(chunk);
    return {};
  }

  // What an interrupted fetch goes on from.
  Status save_part() {
    for (const auto& [level, chunk] : std::exchange(unsaved_, {})) {
      const BlockEntry& entry = directory_.block(level, chunk);
      KVPACK_ASSIGN_OR_RETURN(const Bytes block, archive_.read(entry.offset, entry.bytes));
      KVPACK_RETURN_IF_ERROR(options_.part->append(level, chunk, block));
    }
    return {};
  }

  // Once more; then a refinement is given up, and a base is an error.
  Status damaged(uint32_t level, uint32_t chunk, const Error& error) {
    changed_ = true;
    if (++attempts_[level][chunk] < kMaxBlockAttempts) {
      again_.push_back({level, chunk});
      return {};
    }
    if (level == 0) return error.within(source_.name());
    give_up(level, chunk, error.message);
    return {};
  }

  void give_up(uint32_t level, uint32_t chunk, const std::string& why) {
    report_.degraded = true;
    report_.notes.push_back(fmt::format("level {} of chunk {} is given up: {}", level, chunk, why));
    // Never to be asked for again; nothing above it is of use either.
    for (uint32_t above = level; above < directory_.levels; ++above)
      costs_.distortion[above][chunk] = costs_.distortion[level - 1][chunk];
    state_.requested[chunk] = static_cast<uint8_t>(directory_.levels);
  }

  void end(Transfer& transfer, const RangeOutcome& outcome) {
    meter_.end(clock());
    transfer.done = true;
    changed_ = true;
    // What was asked for and did not come.
    for (size_t i = transfer.next_block; i < transfer.blocks.blocks.size(); ++i) {
      const auto [level, chunk] = transfer.blocks.blocks[i];
      const uint64_t bytes = directory_.block(level, chunk).bytes;
      state_.bytes_on_the_way -= std::min(state_.bytes_on_the_way, bytes);
      state_.requested[chunk] = std::max<uint8_t>(
          state_.held[chunk], std::min<uint8_t>(state_.requested[chunk], static_cast<uint8_t>(level)));
    }
    if (transfer.cancelled || outcome.status.ok()) return;
    if (outcome.replaced) report_.replaced = true;
    if (!failure_) failure_ = outcome.status.error();
  }

  // Blocks that arrived damaged go out again on their own.
  void request_again() {
    for (const BlockRange::Block& block : std::exchange(again_, {})) {
      const BlockEntry& entry = directory_.block(block.level, block.chunk);
      state_.bytes_on_the_way += entry.bytes;
      request({{entry.offset, entry.bytes}, 0, {block}});
    }
  }

  void wait_until(double until_s) {
    request_again();
    const double wait_s = std::max(0.0, until_s - clock());
    if (source_.pending() == 0) {
      // Only the engine is at work.
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(wait_s, tick_s())));
      return;
    }
    source_.poll(NetClock::now() +
                 std::chrono::duration_cast<NetClock::duration>(std::chrono::duration<double>(wait_s)));
    transfers_.remove_if([](const Transfer& transfer) { return transfer.done; });
    if (clock() >= plan_.stop_s) cancel_refinements();
  }

  double tick_s() const { return state_.engine_running ? kEngineTickS : kTickS; }

  void cancel_refinements() {
    for (Transfer& transfer : transfers_) {
      if (transfer.cancelled || !transfer.blocks.only_refinements()) continue;
      transfer.cancelled = true;
      source_.cancel(transfer.id);
    }
  }

  void cancel_all() {
    for (Transfer& transfer : transfers_) {
      transfer.cancelled = true;
      source_.cancel(transfer.id);
    }
    while (source_.pending() > 0) source_.poll(NetClock::now() + std::chrono::milliseconds(100));
    transfers_.clear();
  }

  Status ask_engine() {
    if (options_.engine == nullptr || !state_.engine_running) return {};
    state_.engine_chunk_s = clock() - engine_begin_s_;
    const auto computed = options_.engine->computed_chunks();
    if (!computed.ok()) {
      report_.degraded = true;
      report_.notes.push_back("the engine failed: " + computed.error().message);
      state_.engine_running = false;
      engine_failed_ = true;
      changed_ = true;
      return state_.all_available() ? Status() : Status(computed.error());
    }
    if (*computed > state_.computed_front()) {
      for (uint32_t chunk = 0; chunk < *computed; ++chunk) state_.computed[chunk] = 1;
      state_.engine_running = false;
      state_.engine_chunk_s = 0;
      changed_ = true;
    }
    return {};
  }

  bool finished() const {
    if (lead_pending_ || !state_.all_available()) return false;
    if (clock() >= plan_.stop_s) return true;
    return source_.pending() == 0 && again_.empty() && plan_.next.empty() &&
           !(plan_.run_engine && state_.engine_running);
  }

  // The network failed for good, but the base is here and a deadline wants an answer.
  bool can_do_without() {
    if (!std::isfinite(options_.goal.deadline_s) || lead_pending_ || !state_.all_available()) return false;
    report_.degraded = true;
    report_.notes.push_back(failure_->message);
    return true;
  }

  FetchProgress progress() const {
    FetchProgress progress;
    progress.now_s = state_.now_s;
    progress.bytes = report_.network_bytes;
    progress.bytes_per_s = estimator_.estimate().bytes_per_s();
    progress.total_bytes = costs_.total_bytes();
    progress.lowest_level = directory_.levels;
    for (uint32_t chunk = 0; chunk < costs_.chunks(); ++chunk) {
      progress.lowest_level = std::min<uint32_t>(progress.lowest_level, state_.held[chunk]);
      progress.held_bytes += costs_.chunk_bytes(chunk, state_.held[chunk]);
    }
    return progress;
  }

  FetchReport report() {
    for (uint32_t chunk = 0; chunk < costs_.chunks(); ++chunk) {
      const bool computed = state_.computed[chunk] != 0;
      report_.actions.push_back(computed ? ChunkAction{ActionKind::kRecompute, 0, 1.0}
                                         : ChunkAction{ActionKind::kLoad, state_.held[chunk], 0.0});
    }
    report_.memory = estimator_.memory();
    return std::move(report_);
  }

  RangeSource& source_;
  const Directory& directory_;
  const std::string archive_id_;
  FetchedArchive& archive_;
  const FetchOptions& options_;
  ContextCosts costs_;
  PlanState state_;
  ThroughputEstimator estimator_;
  BusyMeter meter_;
  std::vector<std::vector<bool>> here_;          // [level][chunk]
  std::vector<std::vector<uint32_t>> attempts_;  // [level][chunk] that arrived damaged
  std::vector<BlockRange::Block> again_;
  std::vector<BlockRange::Block> unsaved_;  // arrived, and not in the part file yet
  std::list<Transfer> transfers_;           // callbacks point into it
  Plan plan_;
  double look_again_s_ = 0;
  double engine_begin_s_ = 0;
  bool changed_ = true;  // something completed since the last plan
  bool cache_works_ = true;
  bool engine_failed_ = false;
  uint64_t lead_begin_ = 0;
  uint64_t lead_end_ = 0;
  bool lead_pending_ = false;  // sections that on_open waits for
  std::optional<Error> failure_;
  FetchReport report_;
};

}  // namespace

Result<FetchReport> fetch_archive(RangeSource& source, const ArchiveReader& reader, FetchedArchive& archive,
                                  const std::vector<std::vector<bool>>& held, const FetchOptions& options) {
  if (reader.directory().chunks.empty()) return invalid_argument(source.name() + ": holds no tokens");
  return Fetch(source, reader, archive, options).run(held);
}

}  // namespace kvpack
