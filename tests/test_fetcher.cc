// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <thread>

#include "tests/fetch_samples.h"
#include "tests/scripted_server.h"

using namespace kvpack;

namespace {

std::string text_of(const SampleArchive& sample) { return std::string(as_text(sample.file)); }

// Answers rightly at `bytes_per_s`, the link shared by all connections.
class SlowServer {
 public:
  SlowServer(std::string body, double bytes_per_s)
      : body_(std::move(body)), bytes_per_s_(bytes_per_s), server_([this](const auto& request, auto& connection) {
          const RightAnswer right = right_answer(request, body_.size());
          if (!connection.send(right.head)) return;
          for (uint64_t at = 0; at < right.bytes; at += kSlice) {
            if (!take_turn(connection)) return;
            if (!connection.send(std::string_view(body_).substr(right.first + at, std::min(kSlice, right.bytes - at))))
              return;
          }
        }) {}
  ScriptedServer& server() { return server_; }

 private:
  static constexpr uint64_t kSlice = 2000;
  // By the clock, so that a busy machine does not make the link slower than it is said to be; a pause is not made up
  // for.
  bool take_turn(ScriptedServer::Connection& connection) {
    const std::lock_guard lock(link_);
    const auto now = std::chrono::steady_clock::now();
    if (now > free_at_ + std::chrono::milliseconds(200)) free_at_ = now;
    free_at_ += std::chrono::microseconds(static_cast<int64_t>(1e6 * kSlice / bytes_per_s_));
    const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(free_at_ - now);
    return wait.count() <= 0 || connection.wait(wait);
  }
  const std::string body_;
  const double bytes_per_s_;
  std::mutex link_;
  std::chrono::steady_clock::time_point free_at_{};
  ScriptedServer server_;
};

}  // namespace

TEST_CASE("fetch: everything, in the opening request and one range") {
  for (const size_t section_bytes : {100u, 90'000u}) {
    const SampleArchive sample = fetch_sample(20, 4000, section_bytes);
    const std::string body = text_of(sample);
    ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
    const TestFetch fetch = test_fetch(server.url(), sample, {});
    REQUIRE(fetch.report.ok());
    CHECK(all_sound(fetch, 60));
    CHECK(fetch.opened);
    CHECK(fetch.requests == 2);
    CHECK(server.requests() == 2);
    for (const ChunkAction& action : fetch.report->actions) CHECK(action.levels == 3);
    CHECK_FALSE(fetch.report->degraded);
  }
}

TEST_CASE("fetch: an archive that fits into the opening needs no second request") {
  const SampleArchive sample = fetch_sample(3, 500);
  const std::string body = text_of(sample);
  ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
  const TestFetch fetch = test_fetch(server.url(), sample, {});
  REQUIRE(fetch.report.ok());
  CHECK(all_sound(fetch, 9));
  CHECK(server.requests() == 1);
}

TEST_CASE("fetch: with a deadline it stops in time, the base whole and refined as far as it went") {
  const SampleArchive sample = fetch_sample(24, 12'000);
  SlowServer slow(text_of(sample), 500e3);  // 1.3 MB in all
  FetchOptions options;
  options.goal.deadline_s = 1.4;
  const NetTime begin = NetClock::now();
  const TestFetch fetch = test_fetch(slow.server().url(), sample, options);
  const double took_s = std::chrono::duration<double>(NetClock::now() - begin).count();
  REQUIRE(fetch.report.ok());
  CHECK(took_s < 1.6);
  CHECK(took_s > 0.9);
  uint32_t refined = 0, levels = 0;
  for (const ChunkAction& action : fetch.report->actions) {
    CHECK(action.levels >= 1);
    refined += action.levels > 1 ? 1 : 0;
    levels += action.levels;
  }
  CHECK(refined > 2);
  CHECK(levels < 24 * 3);
  CHECK(all_sound(fetch, levels));
}

TEST_CASE("fetch: a block that arrives damaged is asked for again") {
  const SampleArchive sample = fetch_sample(20, 4000);
  const std::string body = text_of(sample);
  std::string damaged = body;
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
  ScriptedServer server([&](const auto& request, auto& connection) {
    answer_right(request, connection, request.number == 1 ? damaged : body);
  });
  const TestFetch fetch = test_fetch(server.url(), sample, {});
  REQUIRE(fetch.report.ok());
  CHECK(all_sound(fetch, 60));
  CHECK(server.requests() == 3);
  CHECK_FALSE(fetch.report->degraded);
}

TEST_CASE("fetch: a refinement that is damaged at the source is given up, a base is an error") {
  const SampleArchive sample = fetch_sample(20, 4000);
  MemorySource memory(sample.file);
  const auto reader = ArchiveReader::open(memory);
  REQUIRE(reader.ok());
  for (const uint32_t level : {0u, 1u}) {
    std::string body = text_of(sample);
    const BlockEntry& block = reader->directory().block(level, 18);
    body[block.offset + block.bytes - 1] = static_cast<char>(body[block.offset + block.bytes - 1] ^ 1);
    ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
    const TestFetch fetch = test_fetch(server.url(), sample, {});
    if (level == 0) {
      REQUIRE_FALSE(fetch.report.ok());
      CHECK(fetch.report.error().kind == ErrorKind::kCorrupt);
      continue;
    }
    REQUIRE(fetch.report.ok());
    CHECK(fetch.report->degraded);
    REQUIRE(fetch.report->notes.size() == 1);
    CHECK(fetch.report->notes[0].find("level 1 of chunk 18") != std::string::npos);
    CHECK(fetch.report->actions[18].levels == 1);
    CHECK(fetch.report->actions[17].levels == 3);
  }
}

TEST_CASE("fetch: a server killed midway leaves a part file; the next fetch goes on from it") {
  const SampleArchive sample = fetch_sample(40, 6000);
  const std::string body = text_of(sample);
  const auto folder = fresh_folder("resume");
  const std::string part = (folder / "slot.bin.part").string();
  uint64_t first_bytes = 0;
  {
    ScriptedServer server([&](const auto& request, auto& connection) {
      if (request.number == 0) return answer_right(request, connection, body);
      if (request.number > 1) return connection.close();
      const RightAnswer right = right_answer(request, body.size());
      connection.send(right.head + body.substr(right.first, right.bytes / 2));
      connection.close();
    });
    const TestFetch fetch = test_fetch(server.url(), sample, {}, part);
    REQUIRE_FALSE(fetch.report.ok());
    CHECK(fetch.report.error().kind == ErrorKind::kNetwork);
    first_bytes = server.sent_bytes();
  }
  CHECK(std::filesystem::file_size(part) > body.size() / 3);
  // A torn record and a damaged block at the end must cost no more than themselves.
  std::filesystem::resize_file(part, std::filesystem::file_size(part) - 100);
  ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
  const TestFetch fetch = test_fetch(server.url(), sample, {}, part);
  REQUIRE(fetch.report.ok());
  CHECK(all_sound(fetch, 120));
  CHECK(fetch.resumed_blocks > 40);
  CHECK(fetch.report->resumed_bytes > first_bytes / 3);
  CHECK(server.sent_bytes() < body.size() * 3 / 4);
  // Another archive's part is not used.
  const SampleArchive other = fetch_sample(41, 6000);
  const std::string other_body = text_of(other);
  ScriptedServer other_server([&](const auto& r, auto& connection) { answer_right(r, connection, other_body); });
  const TestFetch third = test_fetch(other_server.url(), other, {}, part);
  REQUIRE(third.report.ok());
  CHECK(third.resumed_blocks == 0);
  CHECK(all_sound(third, 123));
  std::filesystem::remove_all(folder);
}

TEST_CASE("fetch: an archive that is replaced midway is noticed, and nothing of it is mixed in") {
  const SampleArchive sample = fetch_sample(20, 4000);
  const std::string body = text_of(sample);
  ScriptedServer server([&](const auto& request, auto& connection) {
    answer_right(request, connection, body, request.number == 0 ? "\"v1\"" : "\"v2\"");
  });
  const TestFetch fetch = test_fetch(server.url(), sample, {});
  REQUIRE(fetch.report.ok());
  CHECK(fetch.report->replaced);
}

TEST_CASE("fetch: the second fetch comes from the cache, a damaged file in it does no harm") {
  const SampleArchive sample = fetch_sample(20, 4000);
  const std::string body = text_of(sample);
  const auto folder = fresh_folder("cache");
  ChunkCache cache(folder.string(), 100 << 20);
  FetchOptions options;
  options.cache = &cache;
  ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
  const TestFetch first = test_fetch(server.url(), sample, options);
  REQUIRE(first.report.ok());
  CHECK(first.report->cached_bytes == 0);
  const TestFetch second = test_fetch(server.url(), sample, options);
  REQUIRE(second.report.ok());
  CHECK(all_sound(second, 60));
  CHECK(second.requests == 1);
  CHECK(second.report->network_bytes == 0);
  uint32_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "blocks")) {
    if (!entry.is_regular_file() || ++files != 7) continue;
    std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) - 1);
  }
  const TestFetch third = test_fetch(server.url(), sample, options);
  REQUIRE(third.report.ok());
  CHECK(all_sound(third, 60));
  CHECK(third.report->network_bytes > 0);
  CHECK(third.report->network_bytes < body.size() / 5);
  std::filesystem::remove_all(folder);
}

TEST_CASE("cache: stays under its limit, the least recently used go first") {
  const SampleArchive sample = fetch_sample(10, 4000);
  MemorySource memory(sample.file);
  const auto reader = ArchiveReader::open(memory);
  REQUIRE(reader.ok());
  const Directory& directory = reader->directory();
  const auto folder = fresh_folder("limit");
  ChunkCache cache(folder.string(), 20'000);
  for (uint32_t chunk = 0; chunk < 10; ++chunk) {
    const BlockEntry& block = directory.block(0, chunk);
    const ByteSpan bytes = ByteSpan(sample.file).subspan(block.offset, block.bytes);
    REQUIRE(cache.store("id", directory, 0, chunk, bytes).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  REQUIRE(cache.load("id", directory, 0, 0).has_value());  // used again: the newest now
  REQUIRE(cache.clean_up().ok());
  uint64_t total = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "blocks")) {
    if (entry.is_regular_file()) total += entry.file_size();
  }
  CHECK(total <= 20'000);
  CHECK(total > 10'000);
  CHECK(cache.load("id", directory, 0, 0).has_value());
  CHECK(cache.load("id", directory, 0, 9).has_value());
  CHECK_FALSE(cache.load("id", directory, 0, 1).has_value());
  CHECK_FALSE(cache.load("other", directory, 0, 0).has_value());
  std::filesystem::remove_all(folder);
}

TEST_CASE("cache: several fetchers share a folder that is too small, and all get what they want") {
  const SampleArchive sample = fetch_sample(20, 4000);
  const std::string body = text_of(sample);
  const auto folder = fresh_folder("shared");
  ScriptedServer server([&](const auto& request, auto& connection) { answer_right(request, connection, body); });
  std::atomic<int> good = 0;
  std::vector<std::thread> fetchers;
  for (int i = 0; i < 4; ++i) {
    fetchers.emplace_back([&] {
      ChunkCache cache(folder.string(), 60'000);
      for (int round = 0; round < 5; ++round) {
        FetchOptions options;
        options.cache = &cache;
        const TestFetch fetch = test_fetch(server.url(), sample, options);
        good += fetch.report.ok() && all_sound(fetch, 60) ? 1 : 0;
        static_cast<void>(cache.clean_up().ok());
      }
    });
  }
  for (std::thread& fetcher : fetchers) fetcher.join();
  CHECK(good == 20);
  std::filesystem::remove_all(folder);
}
