// SPDX-License-Identifier: Apache-2.0
#include "net/read_ahead.h"

#include <algorithm>

namespace kvpack {
namespace {

constexpr uint32_t kInFlight = 6;
constexpr uint64_t kAheadBytes = 128 << 20;
constexpr uint64_t kRangeBytes = 1 << 20;
constexpr uint64_t kMaxReservedBytes = 16 << 20;  // before anything has come

}  // namespace

ReadAheadSource::~ReadAheadSource() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  source_.wake();
  if (thread_.joinable()) thread_.join();
}

void ReadAheadSource::begin(const std::vector<ByteRange>& order, bool keep) {
  keep_ = keep;
  for (const ByteRange& range : order) {
    if (range.bytes == 0) continue;
    auto piece = std::make_shared<Piece>(Piece{range, {}, {}, false, false, range.bytes, 0});
    pieces_[range.offset] = piece;
    waiting_.push_back(std::move(piece));
  }
  thread_ = std::thread([this] { work(); });
}

void ReadAheadSource::work() {
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    start_more();
    if (under_way_.empty()) {
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    source_.poll(kNever);
    lock.lock();
  }
  for (const PiecePtr& piece : under_way_) source_.cancel(piece->id);
  lock.unlock();
  while (source_.pending() > 0) source_.poll(kNever);
}

// With mutex_ held; the source's callbacks come from poll() only.
void ReadAheadSource::start_more() {
  while (under_way_.size() < kInFlight && !waiting_.empty() &&
         (keep_ || ahead_bytes_ < kAheadBytes || waiting_.front()->urgent)) {
    const PiecePtr piece = waiting_.front();
    waiting_.pop_front();
    ahead_bytes_ += piece->range.bytes;
    under_way_.push_back(piece);
    piece->bytes.reserve(std::min(piece->range.bytes, kMaxReservedBytes));
    RangeRequest request;
    request.range = piece->range;
    request.on_bytes = [piece](ByteSpan bytes) -> Status {
      piece->bytes.insert(piece->bytes.end(), bytes.begin(), bytes.end());
      return {};
    };
    request.on_done = [this, piece](const RangeOutcome& outcome) {
      const std::lock_guard lock(mutex_);
      piece->status = outcome.status;
      piece->ended = true;
      std::erase(under_way_, piece);
      changed_.notify_all();
    };
    piece->id = source_.start(std::move(request));
  }
}

ReadAheadSource::PiecePtr ReadAheadSource::piece_at(uint64_t offset) {
  auto after = pieces_.upper_bound(offset);
  if (after == pieces_.begin()) return nullptr;
  const PiecePtr& piece = std::prev(after)->second;
  return offset - piece->range.offset < piece->range.bytes ? piece : nullptr;
}

Result<Bytes> ReadAheadSource::read(uint64_t offset, uint64_t count) {
  const ByteSpan head = source_.head();
  if (!thread_.joinable() || offset + count <= head.size() || offset > size() || count > size() - offset) {
    return direct_.read(offset, count);
  }
  Bytes out;
  out.reserve(std::min<uint64_t>(count, kMaxReservedBytes));
  std::unique_lock lock(mutex_);
  for (uint64_t at = offset; at < offset + count;) {
    uint64_t end = offset + count;
    if (at < head.size()) {
      end = std::min<uint64_t>(end, head.size());
      out.insert(out.end(), head.begin() + static_cast<long>(at), head.begin() + static_cast<long>(end));
    } else {
      if (const PiecePtr piece = piece_at(at)) end = std::min(end, piece->range.offset + piece->range.bytes);
      KVPACK_ASSIGN_OR_RETURN(const Bytes part, take(lock, at, end - at));
      out.insert(out.end(), part.begin(), part.end());
    }
    at = end;
  }
  return out;
}

// Of one piece, or of none: then it is asked for at once.
Result<Bytes> ReadAheadSource::take(std::unique_lock<std::mutex>& lock, uint64_t offset, uint64_t count) {
  PiecePtr piece = piece_at(offset);
  const bool planned = piece != nullptr;
  if (!planned) {
    piece = std::make_shared<Piece>(Piece{{offset, count}, {}, {}, false, true, count, 0});
    waiting_.push_front(piece);
  } else if (const auto found = std::find(waiting_.begin(), waiting_.end(), piece); found != waiting_.end()) {
    // Sooner than thought.
    piece->urgent = true;
    waiting_.erase(found);
    waiting_.push_front(piece);
  }
  changed_.notify_all();
  source_.wake();
  changed_.wait(lock, [&] { return piece->ended; });
  KVPACK_RETURN_IF_ERROR(piece->status);
  const auto from = piece->bytes.begin() + static_cast<long>(offset - piece->range.offset);
  Bytes part(from, from + static_cast<long>(count));
  piece->left -= std::min(piece->left, count);
  if (piece->left == 0 && !(planned && keep_)) {
    ahead_bytes_ -= std::min(ahead_bytes_, piece->range.bytes);
    if (planned) pieces_.erase(piece->range.offset);
    changed_.notify_all();
    source_.wake();
  }
  return part;
}

std::vector<ByteRange> ranges_in_decoding_order(const Directory& directory, uint32_t levels) {
  std::vector<ByteRange> ranges;
  const auto chunks = static_cast<uint32_t>(directory.chunks.size());
  for (uint32_t begin = 0, end = 0; begin < chunks; begin = end) {
    uint64_t bytes = 0;
    while (end < chunks && bytes < kRangeBytes) bytes += directory.block(0, end++).bytes;
    for (uint32_t level = 0; level < levels; ++level) {
      const BlockEntry& first = directory.block(level, begin);
      const BlockEntry& last = directory.block(level, end - 1);
      ranges.push_back({first.offset, last.offset + last.bytes - first.offset});
    }
  }
  return ranges;
}

std::vector<ByteRange> ranges_in_file_order(uint64_t begin, uint64_t end) {
  std::vector<ByteRange> ranges;
  for (uint64_t at = begin; at < end; at += kRangeBytes) ranges.push_back({at, std::min(kRangeBytes, end - at)});
  return ranges;
}

}  // namespace kvpack
