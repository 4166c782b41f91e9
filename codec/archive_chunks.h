// SPDX-License-Identifier: Apache-2.0
// An archive's tiles, decoded chunk by chunk on several threads. What is in memory at a time are the coded bytes of
// the chunks in work (as a rule one or two) and, per thread, what a layer's tiles need.
#pragma once

#include <functional>

#include "codec/archive_codec.h"
#include "codec/plane_parameters.h"

namespace kvpack {

// Every plane's parameters. `profile` may be null if no plane uses one. Errors: corrupt, truncated, unsupported (a
// profile is needed).
Result<std::vector<PlaneParameters>> read_all_parameters(const ArchiveReader& reader, const Profile* profile);

// Where a chunk's decoded rows go. Called for every wanted tile, from several threads. `scratch` is the tile's until
// `finished` returns, and holds whatever an earlier tile left in it.
struct TileSink {
  std::function<MutableKvView(const ChunkShape& chunk, uint32_t plane, Bytes& scratch)> rows;
  std::function<Status(const ChunkShape& chunk, uint32_t plane, const Bytes& scratch)> finished;  // may be empty
};

// Decodes what `options` say of the planes that `wanted` names, by chunk and plane. With options.next_step each step
// ends before the next one is asked for. The first error by chunk and layer, whatever the number of threads.
Status for_each_tile(const ArchiveReader& reader, const DecodeOptions& options,
                     const std::function<bool(const ChunkShape&, const PlaneShape&)>& wanted, const TileSink& sink);

}  // namespace kvpack
