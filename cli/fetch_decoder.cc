// SPDX-License-Identifier: Apache-2.0
#include "cli/fetch_decoder.h"

#include <algorithm>

#include "cli/profile_lookup.h"
#include "cli/quantities.h"
#include "formats/placed_rows.h"

namespace kvpack::cli {
namespace {

// Until something has been measured: of archive values, on any machine that is worth it.
constexpr double kSlowestValuesPerS = 50e6;
constexpr unsigned kPlanesTogether = 4;  // what one thread decodes of a chunk at a time, as a rule

uint64_t values_of(const ArchiveReader& reader, uint32_t chunk) {
  const ChunkShape& shape = reader.directory().chunks[chunk];
  uint64_t channels = 0;
  for (uint32_t plane = shape.first_plane; plane < shape.first_plane + shape.planes; ++plane) {
    channels += reader.shape().planes[plane].channels();
  }
  return channels * shape.tokens;
}

// Whether every chunk can be written to the file on its own (placed_rows.h).
bool has_placed_rows(const ArchiveReader& reader, const ArchiveIdentity& identity) {
  const auto container = reader.section(SectionKind::kContainer);
  if (!container.ok()) return false;
  KvReadOptions options;
  options.hadamard_rotated = identity.hadamard_rotated;
  const auto layout = read_container(identity.source_format, *container, options);
  if (!layout.ok()) return false;
  for (size_t p = 0; p < layout->planes.size(); ++p) {
    if (!PlacedRows(layout->planes[p], layout->plane_offsets[p]).in_runs()) return false;
  }
  return true;
}

// Chunks decoded at a time, each by threads / workers threads. Two, so that none waits for the end of another's; more
// where a chunk has too few planes to keep the threads busy.
unsigned workers_for(const ArchiveReader& reader, unsigned threads) {
  unsigned fewest = threads;
  for (const ChunkShape& chunk : reader.directory().chunks) {
    fewest = std::min(fewest, std::max(1u, chunk.planes / kPlanesTogether));
  }
  return std::max(std::min(threads, 2u), (threads + fewest - 1) / fewest);
}

}  // namespace

FetchDecoder::FetchDecoder(const ArchiveReader& reader, FetchDecoderOptions options, OutputFile* output)
    : reader_(reader),
      options_(std::move(options)),
      output_(output),
      offered_(reader.directory().chunks.size()),
      decoded_(reader.directory().chunks.size()),
      taken_(reader.directory().chunks.size()) {}

FetchDecoder::~FetchDecoder() {
  abandon();
  if (thread_.joinable()) thread_.join();
}

void FetchDecoder::abandon() {
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
  }
  changed_.notify_all();
}

void FetchDecoder::open() {
  thread_ = std::thread([this] { status_ = decode(); });
}

void FetchDecoder::offer(uint32_t chunk, uint32_t levels) {
  {
    const std::lock_guard lock(mutex_);
    offered_[chunk] = levels;
  }
  changed_.notify_one();
}

double FetchDecoder::backlog_s() const {
  const std::lock_guard lock(mutex_);
  double waiting = 0;
  for (uint32_t chunk = 0; chunk < offered_.size(); ++chunk) {
    if (decoded_[chunk] < offered_[chunk]) waiting += static_cast<double>(values_of(reader_, chunk));
  }
  const double rate = worker_s_ > 0 && decoded_values_ > 0 ? static_cast<double>(decoded_values_) / worker_s_ * workers_
                                                           : kSlowestValuesPerS;
  return waiting / rate;
}

double FetchDecoder::busy_s() const {
  const std::lock_guard lock(mutex_);
  return worker_s_ / workers_;
}

Status FetchDecoder::finish() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return corrupt("nothing was fetched");
  thread_.join();
  return status_;
}

Status FetchDecoder::decode() {
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader_));
  KVPACK_ASSIGN_OR_RETURN(DecodePlan plan, plan_decode(options_.decoding, reader_, identity));
  notes_ = plan.notes;
  KVPACK_ASSIGN_OR_RETURN(
      const std::optional<LoadedProfile> profile,
      find_profile_for_archive(options_.decoding.profile, options_.decoding.model, reader_, identity));
  if (profile) plan.options.profile = &profile->profile;
  const unsigned threads =
      plan.options.threads > 0 ? plan.options.threads : std::max(1u, std::thread::hardware_concurrency());
  if (plan.restores_source) return decode_source_file(identity, plan, threads);
  plan.options.threads = threads;
  plan.options.next_step = steps();
  KVPACK_ASSIGN_OR_RETURN(file_, decode_file(reader_, identity, plan));
  file_bytes_ = file_->size();
  return {};
}

Status FetchDecoder::decode_source_file(const ArchiveIdentity& identity, const DecodePlan& plan, unsigned threads) {
  PlacedSink* sink = &memory_;
  if (output_ != nullptr) {
    KVPACK_ASSIGN_OR_RETURN(PlacedSink* const file, output_->parts());
    if (file != nullptr) sink = file;
  }
  // Nothing of an archive that was replaced meanwhile may shine through.
  KVPACK_RETURN_IF_ERROR(sink->set_size(0));
  const unsigned workers = has_placed_rows(reader_, identity) ? workers_for(reader_, threads) : 1;
  {
    const std::lock_guard lock(mutex_);
    workers_ = workers;
  }
  std::vector<Status> statuses(workers);
  const auto work = [&](unsigned worker) {
    DecodeOptions options = plan.options;
    options.threads = std::max(1u, threads / workers);
    options.next_step = steps();
    const auto bytes = restore_file(reader_, options, *sink);
    if (!bytes.ok()) {
      statuses[worker] = bytes.error();
      abandon();
    } else if (worker == 0) {
      file_bytes_ = *bytes;
    }
  };
  {
    std::vector<std::jthread> others;
    for (unsigned worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
    work(0);
  }
  for (const Status& status : statuses) KVPACK_RETURN_IF_ERROR(status);
  if (sink == &memory_) file_ = memory_.take();
  return {};
}

std::function<std::optional<DecodeStep>()> FetchDecoder::steps() {
  return [this, watch = Stopwatch(), under_way = std::optional<DecodeStep>()]() mutable {
    if (under_way) done_with(*under_way, watch.lap());
    under_way = next_step();
    watch.lap();
    return under_way;
  };
}

void FetchDecoder::done_with(const DecodeStep& step, double seconds) {
  const std::lock_guard lock(mutex_);
  decoded_[step.chunk] = std::max(decoded_[step.chunk], step.levels);
  taken_[step.chunk] = false;
  decoded_values_ += values_of(reader_, step.chunk);
  worker_s_ += seconds;
}

std::optional<DecodeStep> FetchDecoder::next_step() {
  std::unique_lock lock(mutex_);
  while (!abandoned_) {
    std::optional<DecodeStep> best;
    for (uint32_t chunk = 0; chunk < offered_.size(); ++chunk) {
      if (taken_[chunk] || decoded_[chunk] >= offered_[chunk]) continue;
      if (!ended_ && offered_[chunk] < options_.worth_levels) continue;
      if (!best || offered_[chunk] > best->levels) best = DecodeStep{chunk, offered_[chunk]};
    }
    if (best) {
      taken_[best->chunk] = true;
      return best;
    }
    if (ended_) break;
    changed_.wait(lock);
  }
  return std::nullopt;
}

}  // namespace kvpack::cli
