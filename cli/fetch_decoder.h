// SPDX-License-Identifier: Apache-2.0
// Decodes chunks in a thread of its own while more arrive.
//
// Whatever has new levels is decoded, the most complete chunk first; a chunk that gets more later is decoded again.
// Without a deadline every chunk waits for its last level, so nothing is decoded twice.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cli/decode_plan.h"

namespace kvpack::cli {

class FetchDecoder {
 public:
  // `reader` reads from what has been fetched. Chunks below `worth_levels` levels wait until finish().
  // `decoding`: as for decode; of input and output it says nothing.
  FetchDecoder(const ArchiveReader& reader, uint32_t worth_levels, DecodeArguments decoding);
  ~FetchDecoder();

  // All sections can be read: begin.
  void open();
  // The chunk has so many levels now.
  void offer(uint32_t chunk, uint32_t levels);
  // Seconds of work, were nothing more to come.
  double backlog_s() const;
  // No more will come. Waits for the rest and returns the file. Errors: the decoder's.
  Result<Bytes> finish();
  double busy_s() const { return busy_s_; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  Result<Bytes> decode();
  std::optional<DecodeStep> next_step();

  const ArchiveReader& reader_;
  const uint32_t worth_levels_;
  const DecodeArguments decoding_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint32_t> offered_;  // [chunk] levels
  std::vector<uint32_t> decoded_;  // [chunk] levels
  uint64_t decoded_values_ = 0;
  bool opened_ = false;
  bool ended_ = false;      // nothing more will come
  bool abandoned_ = false;  // nobody wants the file any more
  std::atomic<double> busy_s_ = 0;
  std::optional<Result<Bytes>> file_;
  std::vector<std::string> notes_;
  std::thread thread_;
};

}  // namespace kvpack::cli
