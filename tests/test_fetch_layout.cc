// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>

#include "net/fetch_layout.h"
#include "tests/archive_samples.h"

using namespace kvpack;

namespace {

// A directory of `levels` x `chunks` blocks of 1,000 bytes after 500 bytes of opening.
Directory even_directory(uint32_t levels, uint32_t chunks) {
  Directory directory;
  directory.levels = levels;
  directory.chunks.resize(chunks);
  for (uint32_t i = 0; i < levels * chunks; ++i) directory.blocks.push_back({500 + i * uint64_t{1000}, 1000, 0, 0});
  return directory;
}

}  // namespace

TEST_CASE("layout: everything is one range") {
  const Directory directory = even_directory(3, 10);
  const auto ranges = lay_out(directory, {{0, 1, 0, 10}, {1, 1, 0, 10}, {2, 1, 0, 10}}, std::vector<uint8_t>(10), {});
  REQUIRE(ranges.size() == 1);
  CHECK(ranges[0].range.offset == 500);
  CHECK(ranges[0].range.bytes == 30'000);
  CHECK(ranges[0].blocks.size() == 30);
  CHECK_FALSE(ranges[0].only_refinements());
}

TEST_CASE("layout: sections that are missing come with the base, in the same range") {
  LayoutOptions options;
  options.lead_begin = 200;
  options.lead_end = 500;
  const auto ranges = lay_out(even_directory(2, 4), {{0, 1, 0, 4}}, std::vector<uint8_t>(4), options);
  REQUIRE(ranges.size() == 1);
  CHECK(ranges[0].range.offset == 200);
  CHECK(ranges[0].range.bytes == 4300);
  CHECK(ranges[0].lead_bytes == 300);
  // From the back they are on their own.
  CHECK(lay_out(even_directory(2, 4), {{0, 1, 2, 2}}, std::vector<uint8_t>(4), options).size() == 2);
}

TEST_CASE("layout: held levels leave gaps, neighbours are joined") {
  std::vector<uint8_t> held = {0, 1, 0, 0, 2, 0};
  const auto ranges = lay_out(even_directory(2, 6), {{0, 2, 0, 6}}, held, {});
  REQUIRE(ranges.size() == 4);
  CHECK(ranges[0].blocks == std::vector<BlockRange::Block>{{0, 0}});
  CHECK(ranges[1].blocks == std::vector<BlockRange::Block>{{0, 2}, {0, 3}});
  CHECK(ranges[2].blocks == std::vector<BlockRange::Block>{{0, 5}, {1, 0}, {1, 1}, {1, 2}, {1, 3}});
  CHECK(ranges[3].only_refinements());
}

TEST_CASE("layout: long ranges are cut at blocks, nothing twice and nothing lost") {
  LayoutOptions options;
  options.split_bytes = 7000;
  const auto ranges = lay_out(even_directory(2, 20), {{0, 2, 0, 20}}, std::vector<uint8_t>(20), options);
  CHECK(ranges.size() >= 6);
  CHECK(ranges.size() <= 12);
  uint64_t at = 500;
  std::set<std::pair<uint32_t, uint32_t>> blocks;
  for (const BlockRange& range : ranges) {
    CHECK(range.range.offset == at);
    CHECK(range.range.bytes == range.blocks.size() * 1000);
    CHECK(range.range.bytes <= 7000);
    at += range.range.bytes;
    for (const auto& block : range.blocks) CHECK(blocks.insert({block.level, block.chunk}).second);
  }
  CHECK(blocks.size() == 40);
}

TEST_CASE("layout: cut by runs of chunks, whose levels travel side by side") {
  LayoutOptions options;
  options.split_bytes = 10'000;
  options.complete_chunks = true;
  options.lead_begin = 400;
  options.lead_end = 500;
  const auto ranges = lay_out(even_directory(3, 20), {{0, 3, 0, 20}}, std::vector<uint8_t>(20), options);
  REQUIRE(ranges.size() == 9);  // 60,100 bytes: three runs of three levels
  CHECK(ranges[0].lead_bytes == 100);
  CHECK(ranges[0].range.offset == 400);
  uint64_t bytes = 0;
  std::set<std::pair<uint32_t, uint32_t>> blocks;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const BlockRange& range = ranges[i];
    bytes += range.range.bytes;
    CHECK(range.range.bytes == range.lead_bytes + 1000 * range.blocks.size());
    CHECK(range.blocks.front().level == i % 3);
    CHECK(range.blocks.front().chunk == ranges[i - i % 3].blocks.front().chunk);
    for (const auto& block : range.blocks) CHECK(blocks.insert({block.level, block.chunk}).second);
  }
  CHECK(blocks.size() == 60);
  CHECK(bytes == 60'100);
  // What is short stays one range.
  options.split_bytes = 100'000;
  CHECK(lay_out(even_directory(3, 20), {{0, 3, 0, 20}}, std::vector<uint8_t>(20), options).size() == 1);
}
