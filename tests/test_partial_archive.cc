// SPDX-License-Identifier: Apache-2.0
// Archives of which some blocks are brought: no byte twice, few requests, and an end to it when the server fails.
#include <doctest/doctest.h>

#include <atomic>

#include "net/partial_archive.h"
#include "tests/fetch_samples.h"
#include "tests/scripted_server.h"

namespace kvpack {
namespace {

struct SampleServer {
  SampleArchive sample = fetch_sample(40, 8000);  // 40 chunks, three levels, about 12 kB a block
  std::atomic<bool> fails = false;
  ScriptedServer server{[this](const ScriptedRequest& request, auto& connection) {
    if (fails) {
      connection.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    } else {
      answer_right(request, connection, as_text(sample.file));
    }
  }};
};

void check_blocks(const PartialArchive& archive, const SampleArchive& sample, uint32_t level, uint32_t first,
                  uint32_t chunks) {
  for (uint32_t chunk = first; chunk < first + chunks; ++chunk) {
    const auto tiles = archive.reader().block_tiles(level, chunk);
    REQUIRE(tiles.ok());
    CHECK(*tiles == sample.tiles[level][chunk]);
  }
}

}  // namespace

TEST_CASE("partial archive: only what was asked for is read, and once") {
  SampleServer served;
  auto archive = PartialArchive::open(served.server.url(), patient_options());
  REQUIRE(archive.ok());
  const Directory& directory = (*archive)->reader().directory();
  CHECK((*archive)->bytes_read() == kOpeningBytes);
  REQUIRE((*archive)->bring({{0, 1, 0, 40}}).ok());
  const uint64_t base_end = directory.block(1, 0).offset;
  // The block that the opening cut in two is read whole.
  uint64_t expected = kOpeningBytes;
  for (uint32_t chunk = 0; chunk < 40; ++chunk) {
    const BlockEntry& block = directory.block(0, chunk);
    if (block.offset + block.bytes > kOpeningBytes) expected += block.bytes;
  }
  CHECK((*archive)->bytes_read() == expected);
  CHECK(expected < base_end + 20'000);
  check_blocks(**archive, served.sample, 0, 0, 40);
  CHECK(served.server.requests() == 2);

  REQUIRE((*archive)->bring({{1, 2, 5, 2}, {0, 1, 0, 40}}).ok());
  for (const uint32_t level : {1u, 2u}) {
    for (const uint32_t chunk : {5u, 6u}) expected += directory.block(level, chunk).bytes;
  }
  CHECK((*archive)->bytes_read() == expected);
  CHECK(served.server.requests() == 4);
  check_blocks(**archive, served.sample, 1, 5, 2);
  check_blocks(**archive, served.sample, 2, 5, 2);
  REQUIRE((*archive)->bring({{1, 2, 5, 2}}).ok());
  CHECK((*archive)->bytes_read() == expected);

  served.fails = true;
  CHECK((*archive)->bring({{1, 1, 0, 5}, {2, 1, 10, 5}, {1, 1, 20, 1}, {1, 1, 30, 1}, {2, 1, 35, 1}}).error().kind ==
        ErrorKind::kNetwork);
  check_blocks(**archive, served.sample, 1, 5, 2);
  served.fails = false;
  REQUIRE((*archive)->bring({{1, 1, 0, 5}}).ok());
  check_blocks(**archive, served.sample, 1, 0, 5);
}

}  // namespace kvpack
