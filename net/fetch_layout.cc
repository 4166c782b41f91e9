// SPDX-License-Identifier: Apache-2.0
#include "net/fetch_layout.h"

#include <algorithm>

namespace kvpack {
namespace {

void append_block(const Directory& directory, BlockRange::Block block, std::vector<BlockRange>& ranges) {
  const BlockEntry& entry = directory.block(block.level, block.chunk);
  if (!ranges.empty() && ranges.back().range.offset + ranges.back().range.bytes == entry.offset) {
    ranges.back().range.bytes += entry.bytes;
    ranges.back().blocks.push_back(block);
    return;
  }
  ranges.push_back({{entry.offset, entry.bytes}, 0, {block}});
}

// Halves, until no part is longer than `split_bytes`, cut at a block boundary near the middle. A lead stays in front.
void split(const Directory& directory, BlockRange range, uint64_t split_bytes, std::vector<BlockRange>& out) {
  if (split_bytes == 0 || range.range.bytes <= split_bytes || range.blocks.size() < 2) {
    out.push_back(std::move(range));
    return;
  }
  const uint64_t middle = range.range.offset + range.range.bytes / 2;
  size_t cut = 1;
  while (cut + 1 < range.blocks.size() &&
         directory.block(range.blocks[cut].level, range.blocks[cut].chunk).offset < middle) {
    ++cut;
  }
  const uint64_t at = directory.block(range.blocks[cut].level, range.blocks[cut].chunk).offset;
  const auto where = range.blocks.begin() + static_cast<long>(cut);
  BlockRange second{{at, range.range.offset + range.range.bytes - at}, 0, {where, range.blocks.end()}};
  range.blocks.erase(where, range.blocks.end());
  range.range.bytes = at - range.range.offset;
  split(directory, std::move(range), split_bytes, out);
  split(directory, std::move(second), split_bytes, out);
}

}  // namespace

bool BlockRange::only_refinements() const {
  return lead_bytes == 0 && std::none_of(blocks.begin(), blocks.end(), [](const Block& b) { return b.level == 0; });
}

std::vector<BlockRange> lay_out(const Directory& directory, const std::vector<RangeStep>& steps,
                                const std::vector<uint8_t>& levels_held, const LayoutOptions& options) {
  std::vector<BlockRange> joined;
  const uint64_t lead_bytes = options.lead_end - options.lead_begin;
  if (lead_bytes > 0) joined.push_back({{options.lead_begin, lead_bytes}, lead_bytes, {}});
  for (const RangeStep& step : steps) {
    for (uint32_t level = step.first_level; level < step.first_level + step.levels; ++level) {
      for (uint32_t chunk = step.first_chunk; chunk < step.first_chunk + step.chunks; ++chunk) {
        if (level >= levels_held[chunk]) append_block(directory, {level, chunk}, joined);
      }
    }
  }
  std::vector<BlockRange> ranges;
  for (BlockRange& range : joined) split(directory, std::move(range), options.split_bytes, ranges);
  return ranges;
}

}  // namespace kvpack
