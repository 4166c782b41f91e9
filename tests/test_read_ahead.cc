// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <atomic>

#include "archive_samples.h"
#include "net/read_ahead.h"
#include "range_reads.h"
#include "scripted_server.h"

namespace kvpack {
namespace {

constexpr uint64_t kBytes = 8'000'000;

// Answers right, 30 ms late, and counts how many requests it has at a time.
struct SlowServer {
  SlowServer()
      : body(random_text(kBytes)), server([this](const ScriptedRequest& request, auto& connection) {
          const int now = ++at_a_time;
          for (int most = most_at_a_time; now > most && !most_at_a_time.compare_exchange_weak(most, now);) {
          }
          connection.wait(std::chrono::milliseconds(30));
          --at_a_time;  // before the answer: the next request may come as soon as it has arrived
          if (fails && request.number > 2) {
            connection.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
          } else {
            answer_right(request, connection, body);
          }
        }) {
    auto opened = open_range_source(server.url(), patient_options());
    REQUIRE(opened.ok());
    source = std::move(*opened);
  }

  std::string body;
  std::atomic<int> at_a_time = 0, most_at_a_time = 0;
  std::atomic<bool> fails = false;
  ScriptedServer server;
  std::unique_ptr<RangeSource> source;
};

void check_read(ReadAheadSource& source, const std::string& body, uint64_t offset, uint64_t count) {
  const auto bytes = source.read(offset, count);
  REQUIRE_MESSAGE(bytes.ok(), (bytes.ok() ? "" : bytes.error().message));
  CHECK(as_text(*bytes) == body.substr(offset, count));
}

}  // namespace

TEST_CASE("read ahead: several ranges on their way, every byte once") {
  SlowServer slow;
  const uint64_t head = slow.source->head().size();
  {
    ReadAheadSource ahead(*slow.source);
    check_read(ahead, slow.body, 100, 5000);  // out of the opening
    const auto ranges = ranges_in_file_order(head, kBytes);
    ahead.begin(ranges, false);
    for (uint64_t at = 0; at < kBytes; at += 300'000) {
      check_read(ahead, slow.body, at, std::min<uint64_t>(300'000, kBytes - at));
    }
    CHECK(slow.server.requests() == 1 + ranges.size());
    CHECK(slow.most_at_a_time >= 3);
    // Dropped, so it is asked for again; past the end is an error.
    check_read(ahead, slow.body, 1'000'000, 10);
    CHECK(slow.server.requests() == 2 + ranges.size());
    CHECK_FALSE(ahead.read(kBytes - 10, 11).ok());
  }
  ReadAheadSource kept(*slow.source);
  kept.begin(ranges_in_file_order(head, kBytes), true);
  check_read(kept, slow.body, kBytes - 5000, 5000);  // the last one first
  check_read(kept, slow.body, 0, kBytes);
  const size_t requests = slow.server.requests();
  check_read(kept, slow.body, 0, kBytes);
  CHECK(slow.server.requests() == requests);
}

TEST_CASE("read ahead: a failure is the reader's, and closing in the middle is none") {
  SlowServer slow;
  slow.fails = true;
  ReadAheadSource ahead(*slow.source);
  ahead.begin(ranges_in_file_order(slow.source->head().size(), kBytes), false);
  const auto bytes = ahead.read(100'000, kBytes - 100'000);
  REQUIRE_FALSE(bytes.ok());
  CHECK(bytes.error().kind == ErrorKind::kNetwork);
  CHECK(bytes.error().message.find("404") != std::string::npos);
}

TEST_CASE("read ahead: the order of decoding has every block once, levels of a run of chunks together") {
  const SampleArchive sample = random_archive(5);
  MemorySource source(sample.file);
  const auto reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  const Directory& directory = reader->directory();
  uint64_t bytes = 0;
  for (const ByteRange& range : ranges_in_decoding_order(directory, directory.levels)) bytes += range.bytes;
  uint64_t blocks = 0;
  for (const BlockEntry& block : directory.blocks) blocks += block.bytes;
  CHECK(bytes == blocks);
  CHECK(ranges_in_decoding_order(directory, 1).front().offset == directory.block(0, 0).offset);
}

}  // namespace kvpack
