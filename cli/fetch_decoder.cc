// SPDX-License-Identifier: Apache-2.0
#include "cli/fetch_decoder.h"

#include <algorithm>

#include "cli/profile_lookup.h"
#include "cli/quantities.h"

namespace kvpack::cli {
namespace {

// Until something has been measured: of archive values, on any machine that is worth it.
constexpr double kSlowestValuesPerS = 50e6;

uint64_t values_of(const ArchiveReader& reader, uint32_t chunk) {
  const ChunkShape& shape = reader.directory().chunks[chunk];
  uint64_t channels = 0;
  for (uint32_t plane = shape.first_plane; plane < shape.first_plane + shape.planes; ++plane) {
    channels += reader.shape().planes[plane].channels();
  }
  return channels * shape.tokens;
}

}  // namespace

FetchDecoder::FetchDecoder(const ArchiveReader& reader, uint32_t worth_levels, DecodeArguments decoding)
    : reader_(reader),
      worth_levels_(worth_levels),
      decoding_(std::move(decoding)),
      offered_(reader.directory().chunks.size()),
      decoded_(reader.directory().chunks.size()) {}

FetchDecoder::~FetchDecoder() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = abandoned_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FetchDecoder::open() {
  thread_ = std::thread([this] { file_ = decode(); });
}

void FetchDecoder::offer(uint32_t chunk, uint32_t levels) {
  {
    const std::lock_guard lock(mutex_);
    offered_[chunk] = levels;
  }
  changed_.notify_all();
}

double FetchDecoder::backlog_s() const {
  const std::lock_guard lock(mutex_);
  double waiting = 0;
  for (uint32_t chunk = 0; chunk < offered_.size(); ++chunk) {
    if (decoded_[chunk] < offered_[chunk]) waiting += static_cast<double>(values_of(reader_, chunk));
  }
  const double rate =
      busy_s_ > 0 && decoded_values_ > 0 ? static_cast<double>(decoded_values_) / busy_s_ : kSlowestValuesPerS;
  return waiting / rate;
}

Result<Bytes> FetchDecoder::finish() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return corrupt("nothing was fetched");
  thread_.join();
  return std::move(*file_);
}

Result<Bytes> FetchDecoder::decode() {
  KVPACK_ASSIGN_OR_RETURN(const ArchiveIdentity identity, read_identity(reader_));
  KVPACK_ASSIGN_OR_RETURN(DecodePlan plan, plan_decode(decoding_, reader_, identity));
  notes_ = plan.notes;
  KVPACK_ASSIGN_OR_RETURN(const std::optional<LoadedProfile> profile,
                          find_profile_for_archive(decoding_.profile, decoding_.model, reader_, identity));
  if (profile) plan.options.profile = &profile->profile;
  Stopwatch watch;
  std::optional<DecodeStep> under_way;
  plan.options.next_step = [&]() -> std::optional<DecodeStep> {
    if (under_way) {
      const std::lock_guard lock(mutex_);
      decoded_[under_way->chunk] = std::max(decoded_[under_way->chunk], under_way->levels);
      decoded_values_ += values_of(reader_, under_way->chunk);
      busy_s_ = busy_s_ + watch.lap();
    }
    under_way = next_step();
    watch.lap();
    return under_way;
  };
  return decode_file(reader_, identity, plan);
}

std::optional<DecodeStep> FetchDecoder::next_step() {
  std::unique_lock lock(mutex_);
  while (!abandoned_) {
    std::optional<DecodeStep> best;
    for (uint32_t chunk = 0; chunk < offered_.size(); ++chunk) {
      if (decoded_[chunk] >= offered_[chunk] || (!ended_ && offered_[chunk] < worth_levels_)) continue;
      if (!best || offered_[chunk] > best->levels) best = DecodeStep{chunk, offered_[chunk]};
    }
    if (best) return best;
    if (ended_) break;
    changed_.wait(lock);
  }
  return std::nullopt;
}

}  // namespace kvpack::cli
