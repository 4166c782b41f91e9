// SPDX-License-Identifier: Apache-2.0
// Hostile archives through a full decode. The numbers are those of the project's list of hostile inputs: each must end
// in one clear error or in the identical result, with nothing lost, no crash, no hang and no huge allocation. What
// ends at opening is also in test_archive_hostile.cc; what needs a program (23, and 21 on a terminal) in test_cli.cc.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "formats/archive_layout.h"
#include "formats/checksum.h"
#include "formats/zstd_frame.h"
#include "tests/archive_samples.h"
#include "tests/forged_archive.h"
#include "tests/pack.h"
#include "tests/peak_memory.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;

namespace {

constexpr uint32_t kChunkTokens = 3;

// Five tokens, two layers, K of 8 and V of 4 channels, in two chunks.
const Bytes& small_file() {
  static const Bytes file = [] {
    BlockFields fields;
    fields.positions = {0, 1, 2, 3, 4};
    fields.key_values = 8;
    fields.value_values = 4;
    return small_sequence(fields);
  }();
  return file;
}

Bytes make_archive(Quality quality) {
  EncodeOptions options;
  options.quality = quality;
  options.chunk_tokens = kChunkTokens;
  MemorySink sink;
  must(encode_archive(read_kv(small_file()), nullptr, options, sink));
  return sink.take();
}

const Bytes& archive_of(Quality quality) {
  static const Bytes lossless = make_archive(Quality::kLossless);
  static const Bytes medium = make_archive(Quality::kMedium);
  return quality == Quality::kLossless ? lossless : medium;
}
constexpr Quality kBoth[] = {Quality::kLossless, Quality::kMedium};

// A longer one, whose tiles are really quantized and entropy-coded.
const Bytes& quantized_archive() {
  static const Bytes archive = [] {
    BlockFields fields;
    fields.positions.clear();
    for (int32_t p = 0; p < 70; ++p) fields.positions.push_back(p);
    fields.layers = 1;
    fields.key_values = fields.value_values = 32;
    return pack(read_kv(small_sequence(fields)), nullptr, Quality::kMedium);
  }();
  return archive;
}

void check_clear(const Result<Bytes>& result) {
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().message.size() > 8);
  CHECK(result.error().kind != ErrorKind::kIo);
}

Bytes with_header(const Bytes& file, auto change) {
  ArchiveHeader header = decode_header(file, file.size()).value();
  change(header);
  Bytes forged = file;
  const Bytes bytes = encode_header(header);
  std::copy(bytes.begin(), bytes.end(), forged.begin());
  return forged;
}

Result<Bytes> decode_forged(const OpenedArchive& forged) {
  const std::optional<Bytes> file = forged.write();
  if (!file) return corrupt("the writer refuses it");
  return decode_all(*file);
}

// All tiles, by reference.
std::vector<Bytes*> tiles_of(OpenedArchive& archive) {
  std::vector<Bytes*> tiles;
  for (auto& level : archive.tiles) {
    for (auto& chunk : level) {
      for (Bytes& tile : chunk) tiles.push_back(&tile);
    }
  }
  return tiles;
}

}  // namespace

TEST_CASE("hostile archive 1: empty, one byte, header only") {
  for (const Quality quality : kBoth) {
    const Bytes& file = archive_of(quality);
    CHECK(must(decode_all(file)).size() == small_file().size());
    check_clear(decode_all({}));
    check_clear(decode_all(ByteSpan(file).first(1)));
    check_clear(decode_all(ByteSpan(file).first(kHeaderBytes)));
  }
}

TEST_CASE("hostile archive 2: wrong or CRLF-mangled magic") {
  Bytes file = archive_of(Quality::kMedium);
  file.erase(file.begin() + 4);  // CR LF to LF
  check_error(decode_all(file), ErrorKind::kNotKvpack, "text-mode");
  file = archive_of(Quality::kMedium);
  file[1] = std::byte{'X'};
  check_error(decode_all(file), ErrorKind::kNotKvpack);
}

TEST_CASE("hostile archive 3: unknown version or required feature") {
  const Bytes& file = archive_of(Quality::kMedium);
  check_error(decode_all(with_header(file, [](ArchiveHeader& h) { h.major = 2; })), ErrorKind::kUnsupported, "2");
  check_error(decode_all(with_header(file, [](ArchiveHeader& h) { h.required_features = 2; })), ErrorKind::kUnsupported,
              "feature bit 1");
}

TEST_CASE("hostile archive 4, 5: another declared size, trailing bytes") {
  for (const Quality quality : kBoth) {
    Bytes file = archive_of(quality);
    for (const int64_t off : {-1, 1, 100}) {
      check_clear(decode_all(with_header(file, [&](ArchiveHeader& h) { h.file_bytes += static_cast<uint64_t>(off); })));
    }
    file.push_back(std::byte{0});
    check_error(decode_all(file), ErrorKind::kCorrupt, "trailing");
  }
}

TEST_CASE("hostile archive 6: truncation at every byte") {
  for (const Quality quality : kBoth) {
    const Bytes& file = archive_of(quality);
    for (size_t bytes = 0; bytes < file.size(); ++bytes) {
      CAPTURE(bytes);
      check_clear(decode_all(ByteSpan(file).first(bytes)));
    }
  }
}

TEST_CASE("hostile archive 7, 8: lengths of 2^64 - 1, offset and length overflow") {
  const PeakGuard guard(512 * 1024);
  const Bytes& file = archive_of(Quality::kMedium);
  for (const uint64_t length : {~uint64_t{0}, ~uint64_t{0} - kHeaderBytes, uint64_t{1} << 63, uint64_t{1} << 40}) {
    check_clear(decode_all(with_header(file, [&](ArchiveHeader& h) { h.directory_bytes = length; })));
    const ArchiveParts parts = parts_of(file);
    for (const bool stored : {true, false}) {
      DirectoryTables tables = parts.tables;
      (stored ? tables.sections.back().stored_bytes : tables.sections.back().raw_bytes) = length;
      check_clear(decode_all(sealed(encode_directory(tables), parts.content)));
    }
  }
}

TEST_CASE("hostile archive 9, 10: blocks that overlap, leave holes, or hide bytes in padding") {
  const ArchiveParts parts = parts_of(archive_of(Quality::kMedium));
  for (size_t block = 0; block < parts.tables.blocks.size(); ++block) {
    for (const int change : {-1, 1}) {  // the blocks after it move, into it or away from it
      DirectoryTables tables = parts.tables;
      tables.blocks[block].bytes += static_cast<uint32_t>(change);
      check_clear(decode_all(sealed(encode_directory(tables), parts.content)));
      Bytes content = parts.content;
      if (change > 0) content.push_back(std::byte{0});
      if (change < 0) content.pop_back();
      check_clear(decode_all(sealed(encode_directory(tables), content)));
    }
  }
  Bytes padded = archive_of(Quality::kMedium);
  padded[100] = std::byte{1};
  const uint64_t checksum = xxh3_64(ByteSpan(padded).first(120));
  std::memcpy(padded.data() + 120, &checksum, sizeof checksum);
  check_error(decode_all(padded), ErrorKind::kCorrupt, "padding");
}

TEST_CASE("hostile archive 11: a plane, and so its tiles, a second time") {
  OpenedArchive forged(archive_of(Quality::kLossless));
  forged.shape.planes[1] = forged.shape.planes[0];
  const ArchiveParts parts = parts_of(archive_of(Quality::kLossless));
  check_error(decode_all(with_shape(parts, encode_shape(forged.shape))), ErrorKind::kCorrupt);
}

TEST_CASE("hostile archive 12: a refinement without its base") {
  OpenedArchive forged(quantized_archive());
  REQUIRE(forged.levels > 1);
  for (auto& tile : forged.tiles[0][0]) tile.clear();
  check_error(decode_forged(forged), ErrorKind::kTruncated);
  OpenedArchive swapped(quantized_archive());
  std::swap(swapped.tiles[0], swapped.tiles[1]);
  check_clear(decode_forged(swapped));
}

TEST_CASE("hostile archive 13, 14: shapes that overflow, are zero, or are not the container's") {
  const PeakGuard guard(512 * 1024);
  const ArchiveParts parts = parts_of(archive_of(Quality::kMedium));
  const OpenedArchive opened(archive_of(Quality::kMedium));
  const auto error_of = [&](auto change) {
    ArchiveShape shape = opened.shape;
    change(shape);
    check_clear(decode_all(with_shape(parts, encode_shape(shape))));
    OpenedArchive forged = opened;
    forged.shape = shape;
    const std::optional<Bytes> file = forged.write();
    if (file) check_clear(decode_all(*file));
  };
  error_of([](ArchiveShape& s) { s.planes[0].kv_heads = 0; });
  error_of([](ArchiveShape& s) { s.planes[0].head_dim = 0; });
  error_of([](ArchiveShape& s) { s.planes[0].kv_heads = kMaxKvHeads, s.planes[0].head_dim = kMaxHeadDim; });
  error_of([](ArchiveShape& s) { s.planes[0].kv_heads = ~0u, s.planes[0].head_dim = ~0u; });
  error_of([](ArchiveShape& s) { s.planes[0].head_dim *= 2; });
  error_of([](ArchiveShape& s) { s.planes[0].dtype = DType::kF32; });
  error_of([](ArchiveShape& s) { s.token_sets[0].positions.pop_back(); });
  error_of([](ArchiveShape& s) { s.token_sets[0].positions.assign(1 << 20, 0); });
  error_of([](ArchiveShape& s) { s.planes.pop_back(); });
}

TEST_CASE("hostile archive 15, 16: decompression bombs in every section and tile") {
  const PeakGuard guard(512 * 1024);
  const Bytes zeros(64 << 20);
  const Bytes bomb = zstd_compress(zeros).value();
  for (const SectionKind kind : {SectionKind::kIdentity, SectionKind::kContainer, SectionKind::kParameters}) {
    OpenedArchive forged(archive_of(Quality::kMedium));
    forged.sections[kind] = bomb;  // as content: nothing may unpack it a second time
    CHECK_FALSE(decode_forged(forged).ok());
    forged.sections[kind] = zeros;
    CHECK_FALSE(decode_forged(forged).ok());
  }
  OpenedArchive forged(archive_of(Quality::kLossless));
  for (Bytes* tile : tiles_of(forged)) *tile = bomb;
  CHECK_FALSE(decode_forged(forged).ok());
  // A window of 2^28, in a frame that is otherwise right: see "zstd frame" in test_archive_hostile.cc.
}

TEST_CASE("hostile archive 17, 18: every byte of every tile changed under right checksums") {
  const PeakGuard guard(512 * 1024);
  for (const Bytes* archive : {&archive_of(Quality::kLossless), &archive_of(Quality::kMedium), &quantized_archive()}) {
    const OpenedArchive opened(*archive);
    OpenedArchive forged = opened;
    size_t tried = 0, refused = 0;
    for (Bytes* tile : tiles_of(forged)) {
      const Bytes whole = *tile;
      const size_t step = whole.size() / 64 + 1;
      for (size_t at = 0; at < whole.size(); at += at < 32 ? 1 : step) {
        for (const int value : {0x00, 0x7f, 0x80, 0xff}) {
          *tile = whole;
          (*tile)[at] = static_cast<std::byte>(value);
          const Result<Bytes> result = decode_forged(forged);
          ++tried;
          if (!result.ok()) check_clear(result), ++refused;
        }
        // The stream ends early.
        *tile = Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(at));
        check_clear(decode_forged(forged));
      }
      // Bytes left over.
      *tile = whole;
      tile->push_back(std::byte{0});
      check_clear(decode_forged(forged));
      *tile = whole;
    }
    CHECK(tried > 100);
    CHECK(refused > 0);
  }
}

TEST_CASE("hostile archive 18, 19: plane parameters with NaN, infinite, huge, denormal numbers, and cut short") {
  const PeakGuard guard(512 * 1024);
  for (const Bytes* archive : {&archive_of(Quality::kMedium), &quantized_archive()}) {
    const OpenedArchive opened(*archive);
    OpenedArchive forged = opened;
    Bytes& parameters = forged.sections[SectionKind::kParameters];
    const Bytes whole = parameters;
    size_t refused = 0;
    for (size_t at = 0; at < whole.size(); ++at) {
      parameters = Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(at));
      CHECK_FALSE(decode_forged(forged).ok());
      for (const uint32_t pattern :
           {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x7f7fffffu, 0x00000001u, 0u, ~0u, 0x7c007c00u}) {
        parameters = whole;
        std::memcpy(parameters.data() + at, &pattern, std::min<size_t>(4, whole.size() - at));
        const Result<Bytes> result = decode_forged(forged);
        if (!result.ok()) check_clear(result), ++refused;
      }
    }
    CHECK(refused > 10);
    parameters = whole;
    parameters.push_back(std::byte{0});
    check_error(decode_forged(forged), ErrorKind::kCorrupt);
  }
}

TEST_CASE("hostile archive 18: containers and identities that lie, under right checksums") {
  const PeakGuard guard(512 * 1024);
  for (const SectionKind kind : {SectionKind::kContainer, SectionKind::kIdentity}) {
    const OpenedArchive opened(archive_of(Quality::kLossless));
    OpenedArchive forged = opened;
    Bytes& section = forged.sections[kind];
    const Bytes whole = section;
    for (size_t at = 0; at < whole.size(); ++at) {
      for (const int value : {0x00, 0x22, 0x7f, 0xff}) {
        section = whole;
        section[at] = static_cast<std::byte>(value);
        const Result<Bytes> result = decode_forged(forged);
        if (!result.ok()) CHECK_FALSE(result.error().message.empty());
        if (result.ok()) CHECK(result->size() == small_file().size());
      }
      section = Bytes(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(at));
      CHECK_FALSE(decode_forged(forged).ok());
    }
    forged.sections.erase(kind);
    check_clear(decode_forged(forged));
  }
}

TEST_CASE("hostile archive 20: header and trailer disagree") {
  Bytes file = archive_of(Quality::kMedium);
  ArchiveHeader header = decode_header(file, file.size()).value();
  header.archive_id[0] ^= std::byte{1};
  const Bytes footer = encode_footer(header);
  std::copy(footer.begin(), footer.end(), file.end() - static_cast<ptrdiff_t>(kFooterBytes));
  // Decoding does not read the trailer, so it gives the identical result; verifying does.
  CHECK(must(decode_all(file)) == must(decode_all(archive_of(Quality::kMedium))));
  const auto error = first_error(file);
  REQUIRE(error.has_value());
  CHECK(error->kind == ErrorKind::kCorrupt);
}

TEST_CASE("hostile archive 21: invalid UTF-8 and terminal escapes in the identity end in an error or come through") {
  OpenedArchive forged(archive_of(Quality::kLossless));
  const std::string text(as_text(forged.sections[SectionKind::kIdentity]));
  const size_t at = text.find("llama.cpp");
  REQUIRE(at != std::string::npos);
  for (const std::string_view odd :
       {std::string_view("\xff\xfe"), std::string_view("\x1b[2J"), std::string_view("\0", 1)}) {
    std::string changed = text;
    changed.replace(at, 9, odd);
    forged.sections[SectionKind::kIdentity] = Bytes(as_byte_span(changed).begin(), as_byte_span(changed).end());
    check_error(decode_forged(forged), ErrorKind::kCorrupt);  // no JSON: raw control characters, or not UTF-8
    // As JSON escapes they are legal, and must not disturb a decode.
    changed = text;
    changed.replace(at, 9, "\\u001b[2J\\u0000");
    forged.sections[SectionKind::kIdentity] = Bytes(as_byte_span(changed).begin(), as_byte_span(changed).end());
    CHECK(must(decode_forged(forged)) == small_file());
  }
}

TEST_CASE("hostile archive 22: a file that shrinks while it is read") {
  const std::string path = (std::filesystem::temp_directory_path() / "kvpack-test-shrinking.kvp").string();
  // Large enough that its blocks are not in the first read.
  const Bytes archive = pack(read_kv(read_sample("llama/lighthouse-f16.slot.bin")), nullptr, Quality::kMedium);
  REQUIRE(archive.size() > 4 * kOpeningBytes);
  std::ofstream(path, std::ios::binary) << as_text(archive);
  const auto source = must(open_file_source(path));
  const ArchiveReader reader = must(ArchiveReader::open(*source));
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(2 * kOpeningBytes)) == 0);
  const auto restored = restore_file(reader, {});
  check_error(restored, ErrorKind::kTruncated, path);
  CHECK_FALSE(reader.verify().ok());
  std::filesystem::remove(path);
}

TEST_CASE("hostile archive 23: a FIFO, a device, a folder") {
  const std::string fifo = (std::filesystem::temp_directory_path() / "kvpack-test-fifo").string();
  std::filesystem::remove(fifo);
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  check_error(open_file_source(fifo), ErrorKind::kIo, fifo);  // and does not wait for a writer
  check_error(open_file_source("/dev/zero"), ErrorKind::kIo, "/dev/zero");
  check_error(open_file_source("/tmp"), ErrorKind::kIo, "folder");
  std::filesystem::remove(fifo);
}

TEST_CASE("hostile archive 24: every single bit flipped") {
  for (const Quality quality : kBoth) {
    Bytes file = archive_of(quality);
    const Bytes expected = must(decode_all(file));
    const ArchiveParts parts = parts_of(file);
    size_t identical = 0;
    for (size_t bit = 0; bit < file.size() * 8; ++bit) {
      CAPTURE(bit);
      file[bit / 8] ^= std::byte{1} << (bit % 8);
      const Result<Bytes> result = decode_all(file);
      if (result.ok()) {
        CHECK(*result == expected);
        ++identical;
      } else {
        check_clear(result);
      }
      file[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    // Only what decoding does not read: the trailer, and what is kept beside the values (token ids).
    CHECK(identical <= (file.size() - parts.tables.trailer_offset + 64) * 8);
  }
}
