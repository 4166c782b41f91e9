// SPDX-License-Identifier: Apache-2.0
// Decodes chunks in threads of its own while more arrive, and writes what it decodes to its places in the file.
//
// Whatever has new levels is decoded, the most complete chunk first; a chunk that gets more later is decoded again.
// Without a deadline every chunk waits for its last level, so nothing is decoded twice.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cli/decode_plan.h"
#include "cli/memory_file.h"

namespace kvpack::cli {

struct FetchDecoderOptions {
  uint32_t worth_levels = 1;  // chunks below that wait until finish()
  DecodeArguments decoding;   // as for decode; its input and output are not looked at
};

class FetchDecoder {
 public:
  // `reader` reads from what has been fetched. `output`: written to while more arrives, not committed; null: the file
  // is made in memory.
  FetchDecoder(const ArchiveReader& reader, FetchDecoderOptions options, OutputFile* output);
  ~FetchDecoder();

  // All sections can be read: begin.
  void open();
  // The chunk has so many levels now.
  void offer(uint32_t chunk, uint32_t levels);
  // Seconds of work, were nothing more to come.
  double backlog_s() const;
  // No more will come. Waits for the rest. Errors: the decoder's.
  Status finish();
  // After finish(): the file, if it is not in `output` already.
  std::optional<Bytes> take_file() { return std::move(file_); }
  uint64_t file_bytes() const { return file_bytes_; }
  double busy_s() const;  // decoding and writing, not waiting
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  Status decode();
  Status decode_source_file(const ArchiveIdentity& identity, const DecodePlan& plan, unsigned threads);
  // next_step for one of the threads that share the work.
  std::function<std::optional<DecodeStep>()> steps();
  std::optional<DecodeStep> next_step();
  void done_with(const DecodeStep& step, double seconds);
  void abandon();

  const ArchiveReader& reader_;
  const FetchDecoderOptions options_;
  OutputFile* const output_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint32_t> offered_;  // [chunk] levels
  std::vector<uint32_t> decoded_;  // [chunk] levels
  std::vector<bool> taken_;        // [chunk] a thread is at it
  uint64_t decoded_values_ = 0;
  double worker_s_ = 0;  // sum over all workers
  unsigned workers_ = 1;
  bool ended_ = false;      // nothing more will come
  bool abandoned_ = false;  // nobody wants the file any more
  Status status_;
  std::optional<Bytes> file_;
  uint64_t file_bytes_ = 0;
  MemoryFile memory_;
  std::vector<std::string> notes_;
  std::thread thread_;
};

}  // namespace kvpack::cli
