// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_layers.h"

#include "codec/tile_entropy.h"
#include "formats/byte_io.h"

namespace kvpack::cli {
namespace {

// The lower levels of an archive are those of the qualities below.
constexpr Quality kByLevels[] = {Quality::kLow, Quality::kMedium, Quality::kHigh};

}  // namespace

Result<LayeringReport> measure_layering(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options,
                                        const EncodeReport& report) {
  LayeringReport layering;
  Bytes finest;
  for (size_t level = 0; level < report.levels.size() && level < std::size(kByLevels); ++level) {
    EncodeOptions alone = options;
    alone.quality = kByLevels[level];
    alone.levels = 1;
    MemorySink sink;
    KVPACK_ASSIGN_OR_RETURN(const EncodeReport of_one, encode_archive(file, facts, alone, sink));
    layering.levels.push_back({report.levels[level].cumulative_bytes, of_one.archive_bytes});
    finest = sink.take();
  }
  MemorySource source(finest);
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(source));
  KVPACK_ASSIGN_OR_RETURN(const TileEntropy entropy, measure_tile_entropy(reader, options.profile));
  layering.tile_bytes = entropy.tile_bytes;
  layering.entropy_bytes = entropy.entropy_bytes;
  return layering;
}

}  // namespace kvpack::cli
