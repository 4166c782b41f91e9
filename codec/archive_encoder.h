// SPDX-License-Identifier: Apache-2.0
// One context's encoder: what it measures once, and an encode by any step. Memory: see encode_archive.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "codec/archive_codec.h"
#include "codec/parameter_choice.h"
#include "codec/plane_statistics.h"
#include "codec/tile.h"

namespace kvpack {

class ArchiveEncoder {
 public:
  // All references must outlive the encoder.
  ArchiveEncoder(const KvFile& file, const ModelFacts* facts, const EncodeOptions& options);

  // Finds sinks and token classes. With `keep_statistics` all planes are measured now, for several encodes; else each
  // is measured when its parameters are chosen, and forgotten.
  void prepare(bool keep_statistics);
  uint64_t sink_count() const {
    uint64_t count = 0;
    for (const auto& sinks : sinks_) count += sinks.size();
    return count;
  }
  // One whole encode; no rule: lossless. `quality` is the text for the identity section. With `sink` null only the
  // sizes are found out.
  Result<ArchiveSizes> encode(const StepRule* rule, const std::string& quality, Measuring measuring, ByteSink* sink,
                              EncodeReport& report);

 private:
  struct LayerJob {
    uint32_t chunk = 0;
    std::vector<uint32_t> planes;  // of the tensor, the key first
  };
  const Rope* rope_of(const KvPlane& plane) const {
    return facts_ != nullptr && plane.rope >= 0 ? &shape_.ropes[static_cast<size_t>(plane.rope)] : nullptr;
  }
  void find_all_sinks();
  PlaneStatistics measure(uint64_t plane) const;
  void choose_all(const StepRule* rule);
  ParameterChoice choose(const StepRule& rule, uint64_t plane, const PlaneStatistics& statistics) const;
  void settle(uint64_t plane, ParameterChoice choice) {
    parameters_[plane] = std::move(choice.parameters);
    forward_[plane] = std::move(choice.forward);
  }
  // All tiles go to the writer; `tiles` [chunk][plane of the chunk] keep what there is to tell of them.
  Status encode_tiles(uint32_t levels, Measuring measuring, const std::string& phase, ArchiveWriter& writer,
                      std::vector<std::vector<EncodedTile>>& tiles);
  // Fills the job's planes in `tiles` [plane of the chunk].
  Status encode_layer(const LayerJob& job, Measuring measuring, std::span<EncodedTile> tiles) const;
  const ProfilePlane* profile_of(uint32_t plane) const;
  void set_token_classes();
  // [kv_head][token of the chunk], or empty.
  std::vector<int8_t> classes_of_tile(uint32_t plane, const ChunkShape& chunk) const;
  Status set_sections(ArchiveWriter& writer, const std::string& quality, const EncodeReport& report) const;
  void progress(uint64_t done, uint64_t total, const std::string& phase) const {
    if (options_.progress) options_.progress(done, total, phase);
  }

  const KvFile& file_;
  const ModelFacts* facts_;
  const EncodeOptions& options_;
  ArchiveShape shape_;
  std::vector<ChunkShape> chunks_;
  std::vector<std::vector<uint32_t>> sinks_;            // [token set]
  std::vector<PlaneStatistics> statistics_;             // [plane], if they are kept
  std::vector<PlaneParameters> parameters_;             // [plane]
  std::vector<std::vector<ForwardTransform>> forward_;  // [plane][kv_head]
  std::vector<std::vector<int8_t>> classes_;            // [plane][kv_head][token], or empty
};

}  // namespace kvpack
