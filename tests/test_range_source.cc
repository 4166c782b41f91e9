// SPDX-License-Identifier: Apache-2.0
// Range sources that behave: what is delivered, how many requests that takes, cancelling, and opening archives.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "archive_samples.h"
#include "range_reads.h"
#include "scripted_server.h"

namespace kvpack {
namespace {

// An archive of `tokens` tokens that is small for its length: one layer, short tiles.
SampleArchive long_archive(uint32_t tokens) {
  std::mt19937_64 random(7);
  SampleArchive sample;
  sample.levels = 3;
  TokenSetShape set;
  for (uint32_t i = 0; i < tokens; ++i) set.positions.push_back(static_cast<int32_t>(i));
  sample.shape.token_sets = {set};
  sample.shape.planes = {sample_plane(0, 0, Side::kKey), sample_plane(0, 0, Side::kValue)};
  sample.shape.ropes = {Rope{}};
  fill_and_write(sample, random, 400);
  return sample;
}

ScriptedServer::Handler serving(const std::string& body) {
  return [&body](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    answer_right(request, connection, body);
  };
}

}  // namespace

TEST_CASE("opening an archive of 128K tokens over HTTP takes one request") {
  const SampleArchive sample = long_archive(128 * 1024);
  const std::string body(as_text(sample.file));
  ScriptedServer server(serving(body));
  const auto source = open_range_source(server.url(), quick_options());
  REQUIRE(source.ok());
  CHECK((*source)->size() == body.size());
  CHECK((*source)->etag() == "\"v1\"");
  CHECK((*source)->origin() + "/ctx.kvp" == server.url());
  RangeByteSource bytes(**source);
  const auto reader = ArchiveReader::open(bytes);
  REQUIRE_MESSAGE(reader.ok(), (reader.ok() ? "" : reader.error().message));
  CHECK(reader->directory().chunks.size() == 512);
  CHECK(server.requests() == 1);
  CHECK((*source)->counters().requests == 1);
  // A block is one more, the whole base as well.
  CHECK(reader->block_tiles(1, 300).value() == sample.tiles[1][300]);
  CHECK(server.requests() == 2);
  const uint64_t base = reader->directory().block(0, 0).offset;
  CHECK(read_range(**source, {base, reader->directory().level_bytes(0)}).outcome.status.ok());
  CHECK(server.requests() == 3);
  CHECK(reader->verify().ok());
}

TEST_CASE("six ranges in flight, each delivered in order, over at most six connections") {
  const std::string body = random_text(2'000'000);
  ScriptedServer server(serving(body));
  auto source = open_range_source(server.url(), quick_options());
  REQUIRE(source.ok());
  constexpr size_t kRanges = 40;
  std::vector<std::string> got(kRanges);
  size_t ended = 0;
  for (size_t i = 0; i < kRanges; ++i) {
    RangeRequest request;
    request.range = {i * 50'000, 50'000};
    request.on_bytes = [&got, i](ByteSpan bytes) -> Status {
      got[i] += as_text(bytes);
      return {};
    };
    request.on_done = [&ended](const RangeOutcome& outcome) {
      CHECK(outcome.status.ok());
      CHECK(outcome.attempts == 1);
      CHECK(outcome.bytes == 50'000);
      CHECK(outcome.started <= outcome.first_byte);
      CHECK(outcome.first_byte <= outcome.finished);
      ++ended;
    };
    (*source)->start(std::move(request));
  }
  CHECK((*source)->pending() == kRanges);
  while ((*source)->pending() > 0) (*source)->poll(kNever);
  CHECK(ended == kRanges);
  for (size_t i = 0; i < kRanges; ++i) CHECK(got[i] == body.substr(i * 50'000, 50'000));
  CHECK(server.requests() == 1 + kRanges);
  CHECK(server.connections() <= 6);
  CHECK((*source)->counters().connections == server.connections());
}

TEST_CASE("bytes are delivered while a range is still under way; it can be cancelled then") {
  const std::string body = random_text(1'000'000);
  std::atomic<bool> go_on = false;
  ScriptedServer server([&](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    const RightAnswer right = right_answer(request, body.size());
    const std::string part = body.substr(right.first, right.bytes);
    connection.send(right.head + part.substr(0, 10'000));
    while (request.number > 0 && !go_on && connection.wait(std::chrono::milliseconds(5))) continue;
    connection.send(part.substr(10'000));
  });
  auto source = open_range_source(server.url(), quick_options());
  REQUIRE(source.ok());
  size_t arrived = 0;
  std::optional<RangeOutcome> outcome;
  const auto start = [&] {
    RangeRequest request;
    request.range = {0, 500'000};
    request.on_bytes = [&](ByteSpan bytes) -> Status {
      arrived += bytes.size();
      return {};
    };
    request.on_done = [&](const RangeOutcome& ended) { outcome = ended; };
    return (*source)->start(std::move(request));
  };
  const RangeId first = start();
  while (arrived < 10'000) (*source)->poll(in_seconds(2));
  CHECK(arrived == 10'000);
  CHECK(!outcome);
  (*source)->cancel(first);
  (*source)->poll(in_seconds(2));
  REQUIRE(outcome);
  CHECK(outcome->cancelled);
  CHECK(outcome->bytes == 10'000);
  CHECK((*source)->pending() == 0);

  arrived = 0;
  outcome.reset();
  start();
  while (arrived < 10'000) (*source)->poll(in_seconds(2));
  go_on = true;
  while (!outcome) (*source)->poll(in_seconds(2));
  CHECK(outcome->status.ok());
  CHECK(arrived == 500'000);
}

TEST_CASE("a consumer's error ends its range and no other, as it is") {
  const std::string body = random_text(200'000);
  ScriptedServer server(serving(body));
  auto source = open_range_source(server.url(), quick_options());
  REQUIRE(source.ok());
  std::optional<RangeOutcome> outcome;
  RangeRequest request;
  request.range = {0, 100'000};
  request.on_bytes = [](ByteSpan) -> Status { return corrupt("tile 3"); };
  request.on_done = [&](const RangeOutcome& ended) { outcome = ended; };
  (*source)->start(std::move(request));
  CHECK(read_range(**source, {50'000, 100}).bytes == body.substr(50'000, 100));
  while (!outcome) (*source)->poll(in_seconds(2));
  CHECK(outcome->status.error().kind == ErrorKind::kCorrupt);
  CHECK(outcome->status.error().message == "tile 3");
  CHECK(server.requests() == 3);
}

TEST_CASE("wake() ends a poll() in another thread") {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedServer::Connection& connection) {
    if (request.number == 0) return answer_right(request, connection, std::string(100'000, 'x'));
    connection.wait(std::chrono::seconds(30));
  });
  RangeSourceOptions options = quick_options();
  options.http.stall_s = 30;
  auto source = open_range_source(server.url(), options);
  REQUIRE(source.ok());
  RangeRequest request;
  request.range = {0, 10};
  (*source)->start(std::move(request));
  const TimeLimit limit(5);
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    (*source)->wake();
  });
  (*source)->poll(in_seconds(20));
  waker.join();
}

TEST_CASE("files and file:// are range sources too") {
  const auto folder = std::filesystem::temp_directory_path() / "kvpack-test-ranges";
  std::filesystem::create_directories(folder);
  const auto path = folder / "a b.kvp";
  const std::string body = random_text(3'000'000);
  std::ofstream(path, std::ios::binary) << body;
  for (const std::string& location : {path.string(), "file://" + folder.string() + "/a%20b.kvp",
                                      "file://localhost" + folder.string() + "/a%20b.kvp"}) {
    auto source = open_range_source(location, {});
    REQUIRE_MESSAGE(source.ok(), (source.ok() ? "" : source.error().message));
    CHECK((*source)->size() == body.size());
    CHECK((*source)->head().size() == kOpeningBytes);
    const ReadRange read = read_range(**source, {1000, 2'900'000});
    CHECK(read.bytes == body.substr(1000, 2'900'000));
    CHECK(!read_range(**source, {1000, 10}, NetClock::now()).outcome.status.ok());
    const RangeId id =
        (*source)->start({{0, 2'000'000}, {}, [](const RangeOutcome& ended) { CHECK(ended.cancelled); }, kNever});
    (*source)->poll(kNever);
    (*source)->cancel(id);
    (*source)->poll(kNever);
    CHECK((*source)->pending() == 0);
  }
  CHECK(open_range_source("file://elsewhere/x", {}).error().kind == ErrorKind::kInvalidArgument);
  CHECK(open_range_source((folder / "none").string(), {}).error().kind == ErrorKind::kIo);
  std::filesystem::remove_all(folder);
}

}  // namespace kvpack
