// SPDX-License-Identifier: Apache-2.0
#include "net/file_range_source.h"

#include <algorithm>

namespace kvpack {
namespace {

constexpr uint64_t kSliceBytes = 1 << 20;

}  // namespace

Result<std::unique_ptr<FileRangeSource>> FileRangeSource::open(const std::string& path,
                                                               const RangeSourceOptions& options) {
  std::unique_ptr<FileRangeSource> source(new FileRangeSource);
  KVPACK_ASSIGN_OR_RETURN(source->file_, open_file_source(path));
  const uint64_t head_bytes = std::min(options.opening_bytes, source->file_->size());
  KVPACK_ASSIGN_OR_RETURN(source->head_, source->file_->read(0, head_bytes));
  source->counters_.requests = 1;
  source->counters_.body_bytes = head_bytes;
  return source;
}

RangeId FileRangeSource::start(RangeRequest request) {
  auto transfer = std::make_unique<Transfer>();
  transfer->id = next_id_++;
  transfer->request = std::move(request);
  transfer->outcome.attempts = 1;
  transfers_.push_back(std::move(transfer));
  ++counters_.requests;
  return transfers_.back()->id;
}

void FileRangeSource::cancel(RangeId id) {
  for (const auto& transfer : transfers_) {
    if (transfer->id == id) transfer->outcome.cancelled = true;
  }
}

Status FileRangeSource::read_slice(Transfer& transfer) {
  RangeOutcome& outcome = transfer.outcome;
  const NetTime now = NetClock::now();
  if (outcome.started == NetTime{}) outcome.started = now;
  if (outcome.cancelled) return network_error("cancelled").within(name());
  if (now >= transfer.request.deadline) return network_error("the deadline passed").within(name());
  const ByteRange& range = transfer.request.range;
  const uint64_t count = std::min(kSliceBytes, range.bytes - outcome.bytes);
  KVPACK_ASSIGN_OR_RETURN(const Bytes slice, file_->read(range.offset + outcome.bytes, count));
  if (outcome.bytes == 0) outcome.first_byte = NetClock::now();
  KVPACK_RETURN_IF_ERROR(transfer.request.on_bytes ? transfer.request.on_bytes(slice) : Status());
  outcome.bytes += count;
  counters_.body_bytes += count;
  return {};
}

void FileRangeSource::poll(NetTime) {
  if (transfers_.empty()) return;
  const auto cancelled = std::find_if(transfers_.begin(), transfers_.end(),
                                      [](const auto& transfer) { return transfer->outcome.cancelled; });
  // Callbacks may start ranges, which moves the queue, but not what it points to.
  Transfer& transfer = cancelled != transfers_.end() ? **cancelled : *transfers_.front();
  const Status status = read_slice(transfer);
  if (status.ok() && transfer.outcome.bytes < transfer.request.range.bytes) return;
  transfer.outcome.status = status;
  transfer.outcome.finished = NetClock::now();
  if (transfer.outcome.bytes == 0) transfer.outcome.first_byte = transfer.outcome.finished;
  const auto found = std::find_if(transfers_.begin(), transfers_.end(),
                                  [&transfer](const auto& other) { return other.get() == &transfer; });
  const std::unique_ptr<Transfer> owned = std::move(*found);
  transfers_.erase(found);
  if (owned->request.on_done) owned->request.on_done(owned->outcome);
}

}  // namespace kvpack
