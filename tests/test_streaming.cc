// SPDX-License-Identifier: Apache-2.0
// Files that are read and written in parts: the same bytes as in memory, whatever the layout and the number of threads.
// What memory that takes is checked by tests/memory.
#include <doctest/doctest.h>

#include <algorithm>
#include <mutex>

#include "codec/profile_file.h"
#include "formats/placed_rows.h"
#include "formats/tile_store.h"
#include "tests/engine/scratch_folder.h"
#include "tests/pack.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

// A file in memory, every byte of it written at most once but for zeros.
class PlacedBytes : public PlacedSink {
 public:
  Status set_size(uint64_t bytes) override {
    bytes_.resize(bytes);
    writes_.resize(bytes);
    return {};
  }
  Status write_at(uint64_t offset, ByteSpan bytes) override {
    const std::lock_guard lock(mutex_);
    REQUIRE(offset + bytes.size() <= bytes_.size());
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
    for (size_t i = 0; i < bytes.size(); ++i) ++writes_[offset + i];
    return {};
  }
  const Bytes& bytes() const { return bytes_; }
  bool each_byte_once() const {
    return std::all_of(writes_.begin(), writes_.end(), [](uint8_t count) { return count == 1; });
  }

 private:
  std::mutex mutex_;
  Bytes bytes_;
  std::vector<uint8_t> writes_;
};

void check_restored_in_parts(const Bytes& archive, const DecodeOptions& options = {}) {
  MemorySource source(archive);
  const ArchiveReader reader = must(ArchiveReader::open(source));
  const Bytes whole = must(restore_file(reader, options));
  PlacedBytes parts;
  CHECK(must(restore_file(reader, options, parts)) == whole.size());
  CHECK(parts.bytes() == whole);
  CHECK(parts.each_byte_once());
}

TEST_CASE("a file restored in parts is the one restored in memory") {
  for (const std::string folder : {"llama", "zoo"}) {
    for (const std::string& name : samples_in(folder)) {
      CAPTURE(name);
      const KvFile file = read_kv(read_sample(name));
      for (const Quality quality : {Quality::kLossless, Quality::kMedium}) {
        check_restored_in_parts(pack(file, nullptr, quality));
      }
    }
  }
}

TEST_CASE("the same of tensor files, whose heads lie apart") {
  RandomShape shape;
  const KvFile file = random_kv_file(shape);
  const Bytes safetensors = must(write_safetensors(file.tensor, file.tokens, DType::kBf16));
  check_restored_in_parts(pack(read_kv(safetensors), nullptr, Quality::kMedium));
  Bytes npy = must(write_npy(file.tensor, std::nullopt));
  check_restored_in_parts(pack(read_kv(npy), nullptr, Quality::kMedium));
  // In Fortran order no two values of a plane are neighbours.
  const auto order = as_text(npy).find("'fortran_order': False");
  REQUIRE(order != std::string_view::npos);
  const std::string_view replacement = "'fortran_order': True ";
  std::copy(as_byte_span(replacement).begin(), as_byte_span(replacement).end(),
            npy.begin() + static_cast<std::ptrdiff_t>(order));
  check_restored_in_parts(pack(read_kv(npy), nullptr, Quality::kMedium));
}

TEST_CASE("placed rows: every layout, out of order and in part") {
  const uint32_t rows[] = {3, 4, 5, 0, 1, 7, 2, 6};
  const uint64_t strides[][3] = {{40, 20, 4}, {20, 160, 4}, {4, 160, 32}, {8, 4, 64}};  // token, head, channel
  for (const auto& [token, head, channel] : strides) {
    for (const bool permuted : {false, true}) {
      MutableKvView plane = make_row_view<std::byte>(nullptr, DType::kF32, 8, 2, 5);
      plane.token_stride = token;
      plane.head_stride = head;
      plane.channel_stride = channel;
      if (permuted) plane.row_of_token = rows;
      const PlacedRows placed(plane, 12);
      REQUIRE(placed.in_runs());
      std::vector<float> values(8 * 10);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
      PlacedBytes parts;
      must(parts.set_size(12 + 320));
      Bytes scratch;
      for (const auto& [first, count] : {std::pair(0u, 3u), std::pair(3u, 5u)}) {
        store_values(placed.view(count, scratch), 0, count, &values[first * 10]);
        must(placed.write(first, count, scratch, parts));
      }
      Bytes expected(12 + 320);
      plane.data = expected.data() + 12;
      store_values(plane, 0, 8, values.data());
      CHECK(parts.bytes() == expected);
    }
  }
  MutableKvView scattered = make_row_view<std::byte>(nullptr, DType::kF16, 8, 2, 5);
  scattered.token_stride = 8;  // of four planes in turn
  scattered.head_stride = 64;
  scattered.channel_stride = 128;
  CHECK_FALSE(PlacedRows(scattered, 0).in_runs());
}

TEST_CASE("archives and files are the same for every number of threads") {
  const ModelFacts facts = nano_facts();
  const KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  const Bytes profile_bytes = read_sample("profiles/nano.kvprofile");
  const Profile profile = must(read_profile(profile_bytes, "nano.kvprofile"));
  std::vector<EncodeOptions> ways(4);
  ways[0].quality = Quality::kLossless;
  ways[1].profile = &profile;
  ways[2].bits_per_value = 3;
  ways[3].max_error = 0.25;
  for (EncodeOptions& way : ways) {
    way.chunk_tokens = 64;
    std::vector<Bytes> archives, files;
    for (const unsigned threads : {1u, 2u, 3u, 16u}) {
      way.threads = threads;
      MemorySink sink;
      must(encode_archive(file, &facts, way, sink));
      archives.push_back(sink.take());
      DecodeOptions decode;
      decode.threads = threads;
      decode.profile = way.profile;
      files.push_back(restore(archives[0], decode));
      check_restored_in_parts(archives[0], decode);
    }
    for (const Bytes& archive : archives) CHECK(archive == archives[0]);
    for (const Bytes& restored : files) CHECK(restored == files[0]);
  }
}

TEST_CASE("a mapped file reads as one in memory, and its pages may go at any time") {
  const std::string path = sample_path("smollm2-harbour.slot.bin");
  const auto mapped = must(FileBytes::open(path));
  REQUIRE(mapped->is_mapped());
  const KvFile file = must(read_kv_file(mapped, {}));
  const KvFile in_memory = read_kv(must(read_whole_file(path)));
  REQUIRE(file.tensor.planes.size() == in_memory.tensor.planes.size());
  for (size_t p = 0; p < file.tensor.planes.size(); ++p) {
    const KvView& view = file.tensor.planes[p].view;
    CHECK(view.mapping == mapped.get());
    Bytes rows(view.tokens * view.packed_row_bytes()), expected(rows.size());
    load_raw(view, 0, view.tokens, rows.data());
    mapped->note_reads(1, FileBytes::kResidentBytes);
    load_raw(in_memory.tensor.planes[p].view, 0, view.tokens, expected.data());
    CHECK(rows == expected);
  }
  CHECK(pack(file, nullptr, Quality::kMedium) == pack(in_memory, nullptr, Quality::kMedium));
}

TEST_CASE("tiles beyond what memory may hold come back from the temporary file") {
  const engine::ScratchFolder folder;
  TileStore store(TileKeeping::kSpill, folder.file("."));
  constexpr uint32_t kTileBytes = 5 << 20;
  constexpr uint32_t kTiles = 20;  // 100 MiB
  std::vector<uint64_t> kept_at;
  for (uint32_t i = 0; i < kTiles; ++i) kept_at.push_back(must(store.add(Bytes(kTileBytes, std::byte(i)))));
  Bytes buffer;
  for (uint32_t i = kTiles; i-- > 0;) {
    const ByteSpan tile = must(store.load(kept_at[i], kTileBytes, buffer));
    CHECK(tile.size() == kTileBytes);
    CHECK(std::all_of(tile.begin(), tile.end(), [&](std::byte byte) { return byte == std::byte(i); }));
  }
  TileStore nowhere(TileKeeping::kSpill, folder.file("missing"));
  for (uint32_t i = 0; i < 12; ++i) must(nowhere.add(Bytes(kTileBytes)));
  check_error(nowhere.add(Bytes(kTileBytes)), ErrorKind::kIo, "temporary file");
}

}  // namespace
}  // namespace kvpack::test
