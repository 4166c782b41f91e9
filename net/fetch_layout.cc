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

uint32_t count_levels(const BlockRange& range) {
  uint32_t levels = 0;
  for (size_t i = 0; i < range.blocks.size(); ++i) {
    if (i == 0 || range.blocks[i].level != range.blocks[i - 1].level) ++levels;
  }
  return levels;
}

// One range per level and run of chunks, run by run. A lead stays in front of all.
void split_by_chunks(const Directory& directory, const BlockRange& range, uint64_t split_bytes,
                     std::vector<BlockRange>& out) {
  const uint32_t levels = count_levels(range);
  if (split_bytes == 0 || range.range.bytes <= split_bytes || levels < 2) {
    return split(directory, range, split_bytes, out);
  }
  const uint64_t runs = (range.range.bytes - 1) / split_bytes / levels + 1;
  const auto run_of = [&](const BlockRange::Block& block) { return block.chunk * runs / directory.chunks.size(); };
  std::vector<BlockRange> parts;
  for (const BlockRange::Block& block : range.blocks) {
    const bool goes_on = !parts.empty() && parts.back().blocks.back().level == block.level &&
                         run_of(parts.back().blocks.back()) == run_of(block);
    if (!goes_on) parts.push_back({{directory.block(block.level, block.chunk).offset, 0}, 0, {}});
    parts.back().range.bytes += directory.block(block.level, block.chunk).bytes;
    parts.back().blocks.push_back(block);
  }
  BlockRange& first = parts.front();
  first.lead_bytes = range.lead_bytes;
  first.range = {range.range.offset, first.range.bytes + range.lead_bytes};
  std::stable_sort(parts.begin() + 1, parts.end(), [&](const BlockRange& a, const BlockRange& b) {
    return run_of(a.blocks.front()) < run_of(b.blocks.front());
  });
  out.insert(out.end(), parts.begin(), parts.end());
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
  for (BlockRange& range : joined) {
    if (options.complete_chunks) {
      split_by_chunks(directory, range, options.split_bytes, ranges);
    } else {
      split(directory, std::move(range), options.split_bytes, ranges);
    }
  }
  return ranges;
}

}  // namespace kvpack
