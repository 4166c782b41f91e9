// SPDX-License-Identifier: Apache-2.0
// From blocks to byte ranges: what a plan wants as the fewest contiguous requests. Pure: offsets in, offsets out.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/archive.h"
#include "net/planner.h"
#include "net/range_source.h"

namespace kvpack {

// One request: whole blocks that lie one after the other, in the order of the file. `lead_bytes` before the first one
// are sections that nobody has yet.
struct BlockRange {
  ByteRange range;
  uint64_t lead_bytes = 0;
  struct Block {
    uint32_t level = 0;
    uint32_t chunk = 0;
    bool operator==(const Block&) const = default;
  };
  std::vector<Block> blocks;
  bool only_refinements() const;
};

struct LayoutOptions {
  // Ranges longer than that are cut at block boundaries so that several connections carry them; 0: never.
  uint64_t split_bytes = 32ull << 20;
  // How they are cut. False: in parts that follow each other, so that what lies first comes first. True: by level and
  // runs of chunks, the levels of one run next to each other, so that chunks are complete one after the other while
  // all of it is on its way: a decoder that waits for every level has work from the beginning on.
  bool complete_chunks = false;
  // Sections that have not come with the opening: [begin, end), in front of the first block. Asked for with the first
  // range, and on their own only if that begins elsewhere.
  uint64_t lead_begin = 0;
  uint64_t lead_end = 0;
};

// Neighbours are joined; the order of `steps` is kept otherwise. Levels that are held ([chunk] so many) are left out.
std::vector<BlockRange> lay_out(const Directory& directory, const std::vector<RangeStep>& steps,
                                const std::vector<uint8_t>& levels_held, const LayoutOptions& options);

}  // namespace kvpack
