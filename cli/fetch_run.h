// SPDX-License-Identifier: Apache-2.0
// One fetch, from opening an archive to the decoded file in memory: what `fetch` writes and `load` hands to an engine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/decode.h"
#include "cli/fetch.h"
#include "cli/output_file.h"
#include "net/engine/llama_server.h"
#include "net/fetcher.h"

namespace kvpack::cli {

struct Fetched {
  FetchReport report;
  std::optional<Bytes> file;  // if it is not in the output already
  std::string name;           // of the source, for messages
  uint64_t output_bytes = 0;
  uint64_t archive_bytes = 0;
  uint64_t requests = 0;
  uint32_t levels = 0;
  double decode_busy_s = 0;
  std::vector<std::string> notes;
  std::unique_ptr<PartFile> part;     // may be null
  std::unique_ptr<ChunkCache> cache;  // may be null
  std::string origin;                 // "" if it is no host

  // Every chunk that was loaded has all of its levels.
  bool complete() const;
  // What no first token has to wait for, once the file has arrived where it is wanted.
  void clean_up();
};

// How the archive is to be decoded; asked as soon as it is open, before anything else is fetched. An error ends it.
using PlanDecoding = std::function<Result<DecodeArguments>(const ArchiveReader&)>;

// `output`: written to while more arrives, not committed; null: the file is made in memory. `engine`, which may be
// null, may recompute the front. An archive that is replaced meanwhile is begun again once. Errors: the source's, the
// archive's, the engine's.
Result<Fetched> fetch_context(const FetchArguments& arguments, OutputFile* output, const Console& console,
                              NetTime start, LlamaServer* engine, const PlanDecoding& plan_decoding);

// How the time is told in reports: "0.812 s (loaded after ..., decoder busy for ...)".
std::string time_of_fetch(const Fetched& fetched, double total_s);
// "6.4 MB in 3 requests, 1.2 MB cached".
std::string sources_of_fetch(const Fetched& fetched);

// JSON Lines: one per chunk, then one about all of it, to which the fields of `destination` are added.
void print_fetch_json(const FetchArguments& arguments, const Fetched& fetched, double total_s, bool late,
                      const nlohmann::ordered_json& destination, const Console& console);

}  // namespace kvpack::cli
