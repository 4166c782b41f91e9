// SPDX-License-Identifier: Apache-2.0
// A RangeSource as a ByteSource that knows what will be read: several ranges are on their way while the reader is still
// busy with those before. Reads of anything else are requests of their own.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "formats/archive.h"
#include "net/range_source.h"

namespace kvpack {

class ReadAheadSource : public ByteSource {
 public:
  // `source` must outlive this, and is used by nobody else once begin() has been called.
  explicit ReadAheadSource(RangeSource& source) : source_(source), direct_(source) {}
  ~ReadAheadSource() override;

  // Fetches these ranges, which do not overlap, in this order. `keep`: what has been read may be read again, so all of
  // it stays in memory; otherwise a range is dropped once it has been read to its last byte, and no more than
  // kAheadBytes are fetched in advance. Once.
  void begin(const std::vector<ByteRange>& order, bool keep);

  uint64_t size() const override { return source_.size(); }
  std::string name() const override { return source_.name(); }
  // Waits for what is on its way. From one thread at a time. Errors: the source's.
  Result<Bytes> read(uint64_t offset, uint64_t count) override;

 private:
  struct Piece {
    ByteRange range;
    Bytes bytes;
    Status status;
    bool ended = false;
    bool urgent = false;  // somebody waits for it
    uint64_t left = 0;    // bytes not read yet
    RangeId id = 0;
  };
  using PiecePtr = std::shared_ptr<Piece>;

  void work();
  void start_more();
  Result<Bytes> take(std::unique_lock<std::mutex>& lock, uint64_t offset, uint64_t count);
  PiecePtr piece_at(uint64_t offset);

  RangeSource& source_;
  RangeByteSource direct_;
  bool keep_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, PiecePtr> pieces_;  // [offset] wanted, on its way or here
  std::deque<PiecePtr> waiting_;         // not asked for yet
  uint64_t ahead_bytes_ = 0;             // asked for, and not read yet
  std::vector<PiecePtr> under_way_;
  bool stopped_ = false;
  std::thread thread_;  // the only one that touches source_
};

// An archive's blocks up to `levels` levels in the order in which chunks are decoded, runs of chunks level by level.
std::vector<ByteRange> ranges_in_decoding_order(const Directory& directory, uint32_t levels);
// [begin, end) in parts.
std::vector<ByteRange> ranges_in_file_order(uint64_t begin, uint64_t end);

}  // namespace kvpack
