// SPDX-License-Identifier: Apache-2.0
// Fetches an archive's chunks by plan: asks make_plan() what to request, checks every block that arrives, hands it on,
// and stops in time. One thread; the decoder reads from FetchedArchive in another.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "net/chunk_cache.h"
#include "net/fetched_archive.h"
#include "net/part_file.h"
#include "net/planner.h"
#include "net/range_source.h"

namespace kvpack {

struct FetchProgress {
  double now_s = 0;
  uint64_t bytes = 0;         // arrived, of blocks, over the network
  uint64_t total_bytes = 0;   // of all blocks
  uint64_t held_bytes = 0;    // from wherever
  double bytes_per_s = 0;     // estimated
  uint32_t lowest_level = 0;  // levels that every chunk has
};

// Who recomputes chunks, as far as the fetcher needs to know. Calls return at once.
class FrontComputer {
 public:
  virtual ~FrontComputer() = default;
  virtual double prefill_tokens_per_s() const = 0;
  // Begins with the chunk after those computed so far.
  virtual void begin_chunk(uint32_t chunk) = 0;
  // Chunks computed so far; an error once it has failed for good.
  virtual Result<uint32_t> computed_chunks() = 0;
};

struct FetchOptions {
  PlanGoal goal;
  NetTime start{};                  // when the clock began: before the archive was opened
  ThroughputMemory memory;          // of this origin
  ChunkCache* cache = nullptr;      // may be null
  PartFile* part = nullptr;         // may be null
  FrontComputer* engine = nullptr;  // may be null
  // Seconds that the decoder and writer still need, were nothing more to come; part of what a deadline has to leave.
  std::function<double()> backlog_s;
  std::function<void()> on_open;                                  // every section can be read now
  std::function<void(uint32_t chunk, uint32_t levels)> on_chunk;  // it has so many levels now
  std::function<void(const Plan&, const FetchProgress&)> on_plan;
};

struct FetchReport {
  std::vector<ChunkAction> actions;  // [chunk], as it ended
  double loaded_s = 0;               // when the last byte that is used had come
  uint64_t network_bytes = 0;        // of blocks
  uint64_t cached_bytes = 0;
  uint64_t resumed_bytes = 0;
  uint32_t ranges = 0;
  bool degraded = false;           // something was lost that time would have allowed
  bool replaced = false;           // the archive is another one now: nothing here can be used
  std::vector<std::string> notes;  // what was lost, and why
  ThroughputMemory memory;
};

// `held` are blocks found by the caller in a part file, in the order of levels per chunk; they are in `archive`
// already. Errors: network, corrupt (a base block that is damaged at the source), io (part file).
Result<FetchReport> fetch_archive(RangeSource& source, const ArchiveReader& reader, FetchedArchive& archive,
                                  const std::vector<std::vector<bool>>& held, const FetchOptions& options);

}  // namespace kvpack
