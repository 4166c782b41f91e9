// SPDX-License-Identifier: Apache-2.0
// Damaged and forged archives: one clear error each, no crash, no large allocation.
#include <doctest/doctest.h>
#include <zstd.h>

#include <cstring>

#include "formats/zstd_frame.h"
#include "tests/archive_samples.h"
#include "tests/peak_memory.h"

using namespace kvpack;
using kvpack::test::PeakGuard;

namespace {

ErrorKind kind_of(const std::optional<Error>& error) {
  REQUIRE(error.has_value());
  CHECK_FALSE(error->message.empty());
  return error->kind;
}

bool mentions(const std::optional<Error>& error, std::string_view text) {
  return error.has_value() && error->message.find(text) != std::string::npos;
}

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

template <typename T>
void put(Bytes& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

Bytes with_header(const Bytes& file, const ArchiveHeader& header) {
  Bytes forged = file;
  const Bytes bytes = encode_header(header);
  std::copy(bytes.begin(), bytes.end(), forged.begin());
  return forged;
}

}  // namespace

TEST_CASE("hostile archive: not a .kvp") {
  CHECK(kind_of(first_error({})) == ErrorKind::kNotKvpack);
  CHECK(kind_of(first_error(bytes_of({0x8B}))) == ErrorKind::kNotKvpack);
  const auto error = first_error(as_byte_span("GGUF and so on and on and on"));
  CHECK(kind_of(error) == ErrorKind::kNotKvpack);
  CHECK(mentions(error, "47 47 55 46"));
  CHECK(mentions(error, "test.kvp: "));
  for (const Bytes& magic : {bytes_of({0x8B, 'K', 'V', 'P', '\n', 0x1A, '\n', 0}),        // CR LF to LF
                             bytes_of({0x8B, 'K', 'V', 'P', '\r', '\r', '\n', 0x1A}),     // LF to CR LF
                             bytes_of({0x0B, 'K', 'V', 'P', '\r', '\n', 0x1A, '\n'}),     // seven bits
                             bytes_of({0xC2, 0x8B, 'K', 'V', 'P', '\r', '\n', 0x1A}),     // Latin-1 to UTF-8
                             bytes_of({0xEF, 0xBF, 0xBD, 'K', 'V', 'P', '\r', '\n'})}) {  // not UTF-8
    CHECK(mentions(first_error(magic), "text-mode transfer"));
  }
  CHECK(kind_of(first_error(ByteSpan(small_archive().file).first(8))) == ErrorKind::kTruncated);
}

TEST_CASE("hostile archive: truncated at every byte") {
  const Bytes file = small_archive().file;
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    CAPTURE(bytes);
    const ErrorKind expected = bytes < 8 ? ErrorKind::kNotKvpack : ErrorKind::kTruncated;
    CHECK(kind_of(first_error(ByteSpan(file).first(bytes))) == expected);
  }
}

TEST_CASE("hostile archive: every bit flipped") {
  Bytes file = small_archive().file;
  CHECK_FALSE(first_error(file).has_value());
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    file[bit / 8] ^= std::byte{1} << (bit % 8);
    CAPTURE(bit);
    CHECK(first_error(file).has_value());
    file[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST_CASE("hostile archive: trailing bytes") {
  Bytes file = small_archive().file;
  file.resize(file.size() + 3);
  const auto error = first_error(file);
  CHECK(kind_of(error) == ErrorKind::kCorrupt);
  CHECK(mentions(error, "3 trailing bytes"));
}

TEST_CASE("hostile archive: versions and features") {
  const Bytes file = small_archive().file;
  const ArchiveHeader header = parts_of(file).header;
  ArchiveHeader changed = header;
  changed.major = 2;
  CHECK(kind_of(first_error(with_header(file, changed))) == ErrorKind::kUnsupported);
  changed = header;
  changed.required_features = 1ull << 41;
  const auto error = first_error(with_header(file, changed));
  CHECK(kind_of(error) == ErrorKind::kUnsupported);
  CHECK(mentions(error, "feature bit 41"));
  changed = header;
  changed.minor = 7;
  changed.optional_features = ~0ull;
  CHECK_FALSE(first_error(with_header(file, changed)).has_value());
}

TEST_CASE("hostile archive: header fields under a good checksum") {
  const Bytes file = small_archive().file;
  const ArchiveHeader header = parts_of(file).header;
  for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 27, (uint64_t{1} << 28) + 1, ~uint64_t{0},
                               ~uint64_t{0} - 127, uint64_t{1} << 63}) {
    CAPTURE(value);
    ArchiveHeader changed = header;
    changed.directory_bytes = value;
    CHECK(first_error(with_header(file, changed)).has_value());
    changed = header;
    changed.file_bytes = value;
    CHECK(first_error(with_header(file, changed)).has_value());
    changed = header;
    changed.directory_checksum = value;
    CHECK(kind_of(first_error(with_header(file, changed))) == ErrorKind::kCorrupt);
  }
  Bytes padded = file;
  padded[100] = std::byte{1};
  put(padded, 120, xxh3_64(ByteSpan(padded).first(120)));
  CHECK(mentions(first_error(padded), "padding"));
}

TEST_CASE("hostile archive: header and trailer disagree") {
  const Bytes file = small_archive().file;
  const ArchiveHeader header = parts_of(file).header;
  ArchiveHeader changed = header;
  changed.file_bytes += 1;
  Bytes forged = file;
  const Bytes footer = encode_footer(changed);
  std::copy(footer.begin(), footer.end(), forged.end() - static_cast<long>(kFooterBytes));
  const auto error = first_error(forged);
  CHECK(kind_of(error) == ErrorKind::kCorrupt);
  CHECK(mentions(error, "disagrees"));
}

TEST_CASE("hostile archive: every directory field at its extremes under good checksums") {
  const PeakGuard guard(512 * 1024);
  const ArchiveParts parts = parts_of(small_archive().file);
  constexpr size_t kSecondKindOffset = 16 + 8 + 8 + kSectionEntryBytes;
  for (size_t offset = 0; offset + 4 <= parts.directory.size(); offset += 4) {
    for (const uint32_t value : {0u, 1u, 2u, 7u, 255u, 4096u, 4097u, 1u << 24, 0x7f800000u, 0x7fc00000u, 0x80000000u,
                                 0xbf800000u, ~0u - 1, ~0u}) {
      Bytes directory = parts.directory;
      if (std::memcmp(&directory[offset], &value, 4) == 0) continue;
      if (offset == kSecondKindOffset && value > 2) continue;  // sections of unknown kinds are allowed
      put(directory, offset, value);
      CAPTURE(offset);
      CAPTURE(value);
      CHECK(first_error(sealed(directory, parts.content)).has_value());
      if (offset + 8 > directory.size()) continue;
      put(directory, offset, uint64_t{value} << 32 | value);
      CHECK(first_error(sealed(directory, parts.content)).has_value());
    }
  }
  CHECK(first_error(sealed({}, parts.content)).has_value());
  for (size_t bytes = 0; bytes < parts.directory.size(); ++bytes) {
    const Bytes shorter(parts.directory.begin(), parts.directory.begin() + static_cast<long>(bytes));
    CHECK(kind_of(first_error(sealed(shorter, parts.content))) == ErrorKind::kCorrupt);
  }
}

TEST_CASE("hostile archive: every shape byte at its extremes under good checksums") {
  const PeakGuard guard(512 * 1024);
  const ArchiveParts parts = parts_of(small_archive().file);
  CHECK_FALSE(first_error(with_shape(parts, parts.raw_shape)).has_value());
  const Bytes longest = bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01});
  const Bytes largest_u32 = bytes_of({0xff, 0xff, 0xff, 0xff, 0x0f});
  for (size_t offset = 0; offset < parts.raw_shape.size(); ++offset) {
    CAPTURE(offset);
    for (const int value : {0x00, 0x01, 0x02, 0x1f, 0x7e, 0x7f, 0x80, 0xff}) {
      Bytes shape = parts.raw_shape;
      shape[offset] = static_cast<std::byte>(value);
      // Some such shapes are well-formed (another position, another RoPE base); the others must say why not.
      const auto error = first_error(with_shape(parts, shape));
      if (error.has_value()) CHECK(error->kind != ErrorKind::kTruncated);
    }
    for (const Bytes& varint : {longest, largest_u32}) {
      Bytes shape = parts.raw_shape;
      shape.erase(shape.begin() + static_cast<long>(offset));
      shape.insert(shape.begin() + static_cast<long>(offset), varint.begin(), varint.end());
      const auto error = first_error(with_shape(parts, shape));
      if (error.has_value()) CHECK(error->kind != ErrorKind::kTruncated);
    }
    Bytes shorter(parts.raw_shape.begin(), parts.raw_shape.begin() + static_cast<long>(offset));
    if (offset > 0) CHECK(kind_of(first_error(with_shape(parts, shorter))) == ErrorKind::kCorrupt);
  }
}

TEST_CASE("hostile archive: shapes that contradict themselves") {
  const SampleArchive sample = small_archive();
  const ArchiveParts parts = parts_of(sample.file);
  const auto error_of = [&](auto change) {
    ArchiveShape shape = sample.shape;
    change(shape);
    return first_error(with_shape(parts, encode_shape(shape)));
  };
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[1].side = Side::kKey; }), "a second time"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].kv_heads = 0; }), "at least 1"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].rope = 1; }), "RoPE 1 of 1"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].dtype = DType{31}; }), "dtype 31"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].hadamard_block = 3; }), "Hadamard"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].hadamard_block = 256; }), "Hadamard"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.planes[0].head_dim = 32; }), "values"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.ropes[0].first_channel = 63; }), "turns channels"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.ropes[0].first_channel = ~0u; }), "turns channels"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.ropes[0].inv_freq[0] = std::nan(""); }), "not finite"));
  CHECK(mentions(error_of([](ArchiveShape& s) { s.token_sets[0].positions.push_back(9); }), "shape"));
  CHECK(kind_of(error_of([](ArchiveShape& s) { s.planes[0].head_dim = kMaxHeadDim + 1; })) == ErrorKind::kLimit);
  CHECK(kind_of(error_of([](ArchiveShape& s) { s.planes[0].layer = kMaxLayers; })) == ErrorKind::kLimit);
  Bytes longer = parts.raw_shape;
  longer.push_back(std::byte{0});
  CHECK(mentions(first_error(with_shape(parts, longer)), "after the last plane"));
}

TEST_CASE("hostile archive: a block index that lies about its block") {
  const ArchiveParts parts = parts_of(small_archive().file);
  const uint64_t at = parts.tables.blocks[0].offset - kHeaderBytes - parts.directory.size();
  for (const size_t field : {size_t{0}, size_t{4}}) {
    for (const uint32_t value : {5000u, kMaxTileBytes + 1, ~0u, 0x7f800000u}) {
      Bytes content = parts.content;
      put(content, at + field, value);
      DirectoryTables tables = parts.tables;
      tables.blocks[0].index_checksum = xxh3_64(ByteSpan(content).subspan(at, 2 * kTileEntryBytes));
      CHECK(first_error(sealed(encode_directory(tables), content)).has_value());
    }
  }
}

TEST_CASE("hostile archive: a section that declares another size than it holds") {
  const Bytes zeros(1 << 20);
  const Bytes frame = zstd_compress(zeros).value();
  for (const uint64_t declared : {uint64_t{1} << 19, uint64_t{1} << 21, kMaxSectionBytes, frame.size() + 1}) {
    DirectoryTables tables = parts_of(small_archive().file).tables;
    Bytes content = parts_of(small_archive().file).content;
    tables.sections.push_back({SectionKind::kText, 0, frame.size(), declared, xxh3_64(frame)});
    const uint64_t shape_and_identity = tables.sections[0].stored_bytes + tables.sections[1].stored_bytes;
    content.insert(content.begin() + static_cast<long>(shape_and_identity), frame.begin(), frame.end());
    const auto error = first_error(sealed(encode_directory(tables), content));
    CHECK(kind_of(error) == ErrorKind::kCorrupt);
    CHECK(mentions(error, "declares 1048576 bytes"));
  }
}

TEST_CASE("zstd frame: only one whole frame of the declared size within the window") {
  const Bytes raw(100000, std::byte{'a'});
  const Bytes frame = zstd_compress(raw).value();
  CHECK(zstd_decompress(frame, raw.size()).value() == raw);
  CHECK_FALSE(zstd_decompress(frame, raw.size() - 1).ok());
  Bytes longer = frame;
  longer.push_back(std::byte{0});
  CHECK(zstd_decompress(longer, raw.size()).error().message.find("1 bytes after") != std::string::npos);
  for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
    CHECK_FALSE(zstd_decompress(ByteSpan(frame).first(bytes), raw.size()).ok());
  }
  // RFC 8878: descriptor 0xC0 (8-byte content size), window 2^28, one raw block of one byte.
  Bytes wide = bytes_of({0x28, 0xB5, 0x2F, 0xFD, 0xC0, 18 << 3, 1, 0, 0, 0, 0, 0, 0, 0, 0x09, 0, 0, 'x'});
  CHECK(zstd_decompress(wide, 1).error().kind == ErrorKind::kLimit);
  wide[5] = std::byte{17 << 3};
  CHECK(zstd_decompress(wide, 1).ok());
  // An RLE block says "2^17 times x": the frame declares 4 GiB and holds far less.
  const Bytes bomb = bytes_of({0x28, 0xB5, 0x2F, 0xFD, 0xC0, 10 << 3, 0, 0, 0, 0, 1, 0, 0, 0, 0x03, 0, 0x10, 'x'});
  CHECK(zstd_decompress(bomb, uint64_t{1} << 32).error().kind == ErrorKind::kCorrupt);
}
