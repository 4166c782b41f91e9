// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_layers.h"

#include "codec/tile_entropy.h"
#include "formats/byte_io.h"

namespace kvpack::cli {
namespace {

// The lower levels of an archive are those of the qualities below.
constexpr Quality kByLevels[] = {Quality::kLow, Quality::kMedium, Quality::kHigh};

}  // namespace

Result<std::vector<LevelCost>> measure_layering(const KvFile& file, const ModelFacts* facts,
                                                const EncodeOptions& options, const EncodeReport& report) {
  std::vector<LevelCost> costs;
  for (size_t level = 0; level < report.levels.size() && level < std::size(kByLevels); ++level) {
    EncodeOptions alone = options;
    alone.quality = kByLevels[level];
    alone.levels = 1;
    MemorySink sink;
    KVPACK_ASSIGN_OR_RETURN(const EncodeReport of_one, encode_archive(file, facts, alone, sink));
    MemorySource source(sink.bytes());
    KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(source));
    KVPACK_ASSIGN_OR_RETURN(const TileEntropy entropy, measure_tile_entropy(reader, options.profile));
    costs.push_back(
        {report.levels[level].cumulative_bytes, of_one.archive_bytes, entropy.tile_bytes, entropy.entropy_bytes});
  }
  return costs;
}

}  // namespace kvpack::cli
