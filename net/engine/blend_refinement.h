// SPDX-License-Identifier: Apache-2.0
// Which chunks of a joined context's archives get their further levels. All are opened at the base; what a token is
// worth (the attention that the query pays to it, or its deviation) then weights the distortion that a level removes,
// and the levels that remove most per byte are taken as long as the budget lasts. Pure, but for the decoding.
//
// A step is one level of one archive chunk, all layers: that is what lies contiguously in an archive. Single layers of
// it would be ranges of a few kilobytes each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/archive_codec.h"
#include "net/context_costs.h"
#include "net/planner.h"

namespace kvpack {

// [chunk] how many levels are decoded.
using ChunkLevels = std::vector<uint8_t>;

// [chunk] mean root of the scores of an archive's tokens, 0 where all of a chunk is skipped: the root keeps the few
// that get most of the attention (sinks, which archives hold exactly) from deciding alone. `score`: of its tokens
// behind the first `skipped`, which the context has from elsewhere.
std::vector<double> chunk_scores(std::span<const ChunkShape> chunks, uint32_t skipped, std::span<const float> score);

// [archive] the levels to have: the base, and of all further levels' bytes up to `share` (0 to 1).
std::vector<ChunkLevels> choose_levels(std::span<const ContextCosts> archives,
                                       std::span<const std::vector<double>> scores, double share);

// What an archive holding only `held` levels needs to hold `wanted`, in few ranges.
std::vector<RangeStep> steps_between(const ChunkLevels& held, const ChunkLevels& wanted);
// Bytes of an archive's blocks at these levels.
uint64_t bytes_at(const ContextCosts& costs, const ChunkLevels& levels);

// All of an archive, each chunk up to its own levels. `options.level` and next_step are not looked at.
Result<KvTensor> decode_at(const ArchiveReader& reader, const ChunkLevels& levels, DecodeOptions options,
                           std::vector<int32_t>* tokens);

}  // namespace kvpack
