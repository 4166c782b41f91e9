// SPDX-License-Identifier: Apache-2.0
// Damaged and forged llama.cpp state files and containers: one clear error each.
#include <doctest/doctest.h>

#include <cstring>

#include "formats/llama_state.h"
#include "tests/peak_memory.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

Result<KvFile> read(Bytes bytes) { return read_kv_file(std::move(bytes), {}); }

Bytes first_bytes(const Bytes& bytes, size_t count) {
  return Bytes(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
}

// Whether a cut-off file is, to the byte, a shorter file that llama.cpp could have written: nothing left over.
bool is_whole(const Bytes& bytes) {
  const auto readings = search_llama_readings(bytes);
  return readings.ok() && readings->front().trailing.empty();
}

}  // namespace

TEST_CASE("llama state, hostile: magic and versions are named") {
  check_error(read({}), ErrorKind::kTruncated, "empty");
  check_error(read(Bytes(3, std::byte{'x'})), ErrorKind::kUnsupported, "78 78 78");
  check_error(read(Bytes(64, std::byte{0})), ErrorKind::kUnsupported, "00 00 00 00");
  check_error(read(StateBuilder().u32(0x46554747).u32(3).take()), ErrorKind::kUnsupported, "GGUF model");
  check_error(read(StateBuilder().u32(0x67677371).u32(4).take()), ErrorKind::kUnsupported,
              "sequence file of version 4 (offset 4), known is 3");
  check_error(read(StateBuilder().u32(0x67677371).u32(2).take()), ErrorKind::kUnsupported, "version 2");
  check_error(read(StateBuilder().u32(0x6767736e).u32(9).take()), ErrorKind::kUnsupported,
              "session file of version 9 (offset 4), known is 10");
  check_error(read(StateBuilder().u32(0x67677371).take()), ErrorKind::kTruncated, "version");
  check_error(read(StateBuilder().sequence_head({-1, 2, 0, 0}).block({}).take()), ErrorKind::kUnsupported,
              "payload of version 2");
}

TEST_CASE("llama state, hostile: a small file cut at every byte is an error") {
  for (const uint32_t v_trans : {0u, 1u}) {
    BlockFields fields;
    fields.v_trans = v_trans;
    const Bytes bytes = small_sequence(fields);
    REQUIRE(read(bytes).ok());
    BlockFields keys = fields;
    keys.has_v = false;
    const size_t keys_only = small_sequence(keys).size();  // what an MLA model would have written
    for (size_t count = 0; count < bytes.size(); ++count) {
      CAPTURE(count);
      const auto file = read(first_bytes(bytes, count));
      CHECK(file.ok() == (count == keys_only));
      if (file.ok()) continue;
      CHECK(file.error().message.size() > 10);
      if (count >= 12) CHECK(file.error().kind == ErrorKind::kTruncated);
    }
  }
}

TEST_CASE("llama state, hostile: two blocks cut at every byte are an error, but for whole shorter modules") {
  BlockFields full, window;
  window.positions = {1, 2};
  const size_t boundary = small_sequence(full).size();
  const Bytes bytes = StateBuilder().sequence_head().block(full).block(window).take();
  REQUIRE(read_kv(bytes).module == "iSWA");
  for (size_t count = 0; count < bytes.size(); ++count) {
    CAPTURE(count);
    CHECK(read(first_bytes(bytes, count)).ok() == (count == boundary || count == boundary - 2 * 3 * 128 - 24));
  }
}

TEST_CASE("llama state, hostile: hybrid states cut at every byte are an error or a whole shorter state") {
  BlockFields attention, indexer;
  indexer.has_v = false;
  const Bytes files[] = {StateBuilder().sequence_head().block(attention).recurrent(4, 2, 16).take(),
                         StateBuilder().sequence_head().block(attention).recurrent(3, 1, 16).block(indexer).take(),
                         StateBuilder().sequence_head().recurrent(4, 3, 32).take()};
  for (const Bytes& bytes : files) {
    REQUIRE(read(bytes).ok());
    for (size_t count = 0; count < bytes.size(); ++count) {
      CAPTURE(count);
      const Bytes cut = first_bytes(bytes, count);
      if (read(cut).ok()) CHECK(is_whole(cut));
    }
  }
}

TEST_CASE("llama state, hostile: no sample passes when it is short by a byte or cut anywhere else") {
  for (const std::string folder : {"zoo", "llama"}) {
    for (const std::string& name : samples_in(folder)) {
      CAPTURE(name);
      const Bytes bytes = read_sample(name);
      CHECK_FALSE(read(first_bytes(bytes, bytes.size() - 1)).ok());
      CHECK_FALSE(read(first_bytes(bytes, bytes.size() - 3)).ok());
      for (size_t count = 1; count < bytes.size(); count += bytes.size() / 97 + 1) {
        CAPTURE(count);
        const Bytes cut = first_bytes(bytes, count);
        if (read(cut).ok()) CHECK(is_whole(cut));
      }
    }
  }
}

TEST_CASE("llama state, hostile: counts and sizes that overflow or lie") {
  const PeakGuard guard(256 * 1024);
  const auto error_of = [](auto change) {
    BlockFields fields;
    change(fields);
    return read(small_sequence(fields));
  };
  for (const uint32_t cells : {4u, 1000u, 1u << 24, (1u << 24) + 1, 0x7fffffffu, ~0u, ~0u / 12}) {
    CHECK_FALSE(error_of([&](BlockFields& f) { f.cell_count = cells; }).ok());
  }
  for (const uint64_t row : {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{1} << 24, uint64_t{1} << 32,
                             uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} / 3, ~uint64_t{0} / 3 + 1}) {
    CHECK_FALSE(error_of([&](BlockFields& f) { f.row_bytes = row; }).ok());
  }
  check_error(error_of([](BlockFields& f) { f.row_bytes = 127; }), ErrorKind::kCorrupt, "rows of 127 bytes");
  check_error(error_of([](BlockFields& f) { f.type = 17; }), ErrorKind::kCorrupt, "unknown ggml type 17");
  check_error(error_of([](BlockFields& f) { f.type = -1; }), ErrorKind::kCorrupt, "unknown ggml type -1");
  check_error(error_of([](BlockFields& f) { f.v_trans = 2; }), ErrorKind::kCorrupt, "v_trans 2");
  check_error(error_of([](BlockFields& f) { f.v_trans = 1, f.element_bytes = 4; }), ErrorKind::kCorrupt, "4 bytes per");
  for (const uint32_t streams : {0u, 257u, 0x80000000u, ~0u}) {
    CHECK_FALSE(read(StateBuilder().sequence_head().u32(streams).u32(0).take()).ok());
  }
  for (const uint32_t layers : {3u, 1025u, ~0u}) {
    StateBuilder builder;
    builder.sequence_head().u32(1).u32(1).i32(0).u32(1).i32(0).u32(0).u32(layers);
    CHECK_FALSE(read(builder.take()).ok());
  }
  for (const uint32_t words : {1000u, 1u << 30, ~0u}) {
    CHECK_FALSE(read(StateBuilder().u32(0x67677371).u32(3).u32(words).take()).ok());
    CHECK_FALSE(read(StateBuilder().u32(0x6767736e).u32(10).u32(words).take()).ok());
  }
  check_error(read(StateBuilder().session_head({1, 2}, std::string(300, 'a')).block({}).take()), ErrorKind::kCorrupt,
              "300 bytes long");
  for (const int32_t count : {100, 0x40000000, -1}) {  // more tokens, more media than the payload holds
    check_error(read(StateBuilder().sequence_head({-1, 1, count, 7, 0}).block({}).take()), ErrorKind::kCorrupt);
    check_error(read(StateBuilder().sequence_head({-1, 1, 1, 7, count}).block({}).take()), ErrorKind::kCorrupt);
  }
}

TEST_CASE("llama state, hostile: a sequence file has one sequence per cell") {
  for (const uint32_t sequences : {0u, 2u, 256u}) {
    BlockFields fields;
    fields.sequences = sequences;
    check_error(read(small_sequence(fields)), ErrorKind::kCorrupt);
  }
  BlockFields shared;
  shared.sequences = 2;
  check_error(read(small_sequence(shared)), ErrorKind::kCorrupt, "2 sequence ids, expected 1");
  CHECK(read(StateBuilder().session_head({1, 2, 3}, "llama").block(shared).take()).ok());  // a session may share cells
  shared.positions = {0, -1, 2};
  check_error(read(StateBuilder().session_head({1, 2, 3}, "llama").block(shared).take()), ErrorKind::kCorrupt,
              "position -1");
}

TEST_CASE("llama state, hostile: trailing bytes are kept in sequence files and refused in session files") {
  for (const std::string_view trailing : {std::string_view("\0", 1), std::string_view("\0\0\0", 3),
                                          std::string_view("\0\0\0\0\0\0\0\0", 8), std::string_view("x and y")}) {
    const KvFile file = read_kv(StateBuilder().sequence_head().block({}).bytes(trailing).take());
    CHECK(file.description.find("trailing bytes kept") != std::string::npos);
  }
  check_error(read(StateBuilder().session_head({1, 2, 3}, "llama").block({}).bytes("xyz!").take()), ErrorKind::kCorrupt,
              "4 bytes too many after the memory module");
}

TEST_CASE("llama state, hostile: blocks in an order that is no module") {
  const Bytes bytes = StateBuilder().sequence_head().recurrent(2, 1, 16).recurrent(2, 1, 16).take();
  CHECK_FALSE(read(bytes).ok());
  check_error(read(StateBuilder().sequence_head().block({}).block({}).block({}).take()), ErrorKind::kUnsupported,
              "unknown memory module: blocks VVV");
}

TEST_CASE("llama state, hostile: every bit of a small file flipped is an error or another file, never a crash") {
  Bytes bytes = small_sequence();
  size_t refused = 0;
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto file = read(bytes);
    if (!file.ok()) ++refused;
    if (file.ok()) {
      const auto image = open_container(file->format, file->container, {});
      REQUIRE(image.ok());
      CHECK(image->bytes->size() == bytes.size());
    }
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  CHECK(refused > 700);  // nearly all of the structure's bits; token ids and values are free
}

TEST_CASE("llama state, hostile: a forged container is refused or describes its own file") {
  const PeakGuard guard(512 * 1024);
  const KvFile file = read_kv(small_sequence());
  const size_t head = std::min<size_t>(file.container.size(), 160);
  for (size_t at = 0; at < file.container.size(); ++at) {
    Bytes cut = first_bytes(file.container, at);
    CHECK_FALSE(open_container(file.format, cut, {}).ok());
  }
  for (size_t at = 0; at < head; ++at) {
    for (const int value : {0x00, 0x01, 0x02, 0x7f, 0x80, 0xff}) {
      Bytes forged = file.container;
      forged[at] = static_cast<std::byte>(value);
      const auto image = open_container(file.format, forged, {});
      if (image.ok()) CHECK(image->bytes->size() <= 2 * small_sequence().size());
    }
  }
}

TEST_CASE("llama state, hostile: a file with many possible readings ends in bounded time") {
  StateBuilder builder;
  builder.sequence_head();
  for (int i = 0; i < 100000; ++i) builder.u32(i % 3 == 0 ? 1 : 0);
  CHECK_FALSE(read(builder.take()).ok());
}
