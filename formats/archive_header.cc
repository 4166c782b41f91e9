// SPDX-License-Identifier: Apache-2.0
// The two fixed-size ends of an archive: the 128-byte header and the 64-byte footer.
//
//   header  magic 8 | major u16 | minor u16 | header bytes u32 | required u64 | optional u64 | archive id 16
//           | file bytes u64 | directory offset u64 | directory bytes u64 | directory xxh3 u64 | zeros 40 | xxh3 u64
//   footer  magic 8 | directory bytes u64 | directory xxh3 u64 | file bytes u64 | archive id 16 | zeros 8 | xxh3 u64
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/archive_layout.h"
#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr uint64_t kHeaderPaddingBytes = 40;
constexpr uint64_t kFooterPaddingBytes = 8;
constexpr uint64_t kChecksumBytes = 8;

bool starts_with(ByteSpan bytes, const std::array<uint8_t, 8>& magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

std::string hex_of_first(ByteSpan bytes) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(bytes.size(), 8); ++i) {
    text += fmt::format("{}{:02x}", i == 0 ? "" : " ", static_cast<uint8_t>(bytes[i]));
  }
  return text;
}

Status check_magic(ByteSpan head) {
  if (starts_with(head, kHeaderMagic)) return {};
  if (head.empty()) return not_kvpack("not a .kvp archive: the file is empty");
  const std::string_view text = as_text(head);
  const bool newlines_changed = text.substr(1, 3) == "KVP" && (text[0] == '\x8B' || text[0] == '\x0B');
  const bool recoded = text.substr(0, 6) == "\xEF\xBF\xBDKVP" || text.substr(0, 5) == "\xC2\x8BKVP";
  if (head.size() >= kHeaderMagic.size() && (newlines_changed || recoded)) {
    return not_kvpack(
        fmt::format("damaged .kvp archive, it looks like it went through a text-mode transfer: first bytes {}, "
                    "expected 8b 4b 56 50 0d 0a 1a 0a",
                    hex_of_first(head)));
  }
  return not_kvpack(
      fmt::format("not a .kvp archive: first bytes {}, expected 8b 4b 56 50 0d 0a 1a 0a", hex_of_first(head)));
}

Status check_zeros(ByteSpan padding, std::string_view what) {
  const bool zero = std::all_of(padding.begin(), padding.end(), [](std::byte b) { return b == std::byte{0}; });
  return zero ? Status() : corrupt(fmt::format("{}: padding is not zero", what));
}

// The last 8 bytes are the checksum of those before.
Status check_seal(ByteSpan bytes, std::string_view what) {
  const size_t sealed = bytes.size() - kChecksumBytes;
  uint64_t stored;
  std::memcpy(&stored, bytes.data() + sealed, sizeof stored);
  const uint64_t computed = xxh3_64(bytes.first(sealed));
  if (stored == computed) return {};
  return corrupt(fmt::format("{}: checksum {:016x}, it says {:016x}", what, computed, stored));
}

Bytes seal(ByteWriter writer) {
  writer.write(xxh3_64(writer.bytes()));
  return writer.take();
}

Status check_features(uint64_t required) {
  const uint64_t unknown = required & ~kKnownRequiredFeatures;
  if (unknown == 0) return {};
  return unsupported(
      fmt::format("needs feature bit {}, which this version of kvpack does not know", std::countr_zero(unknown)));
}

Status check_sizes(const ArchiveHeader& header, uint64_t directory_offset, uint64_t file_bytes) {
  if (file_bytes < header.file_bytes) {
    return truncated(fmt::format("{} bytes, its header says {}", file_bytes, header.file_bytes));
  }
  if (file_bytes > header.file_bytes) {
    return corrupt(
        fmt::format("{} trailing bytes after the {} of its header", file_bytes - header.file_bytes, header.file_bytes));
  }
  if (directory_offset != kHeaderBytes) {
    return corrupt(fmt::format("header: directory at offset {}, expected {}", directory_offset, kHeaderBytes));
  }
  if (header.directory_bytes > kMaxDirectoryBytes) {
    return limit_exceeded(
        fmt::format("header: directory of {} bytes, at most {} allowed", header.directory_bytes, kMaxDirectoryBytes));
  }
  if (kHeaderBytes + 2 * header.directory_bytes + kFooterBytes > file_bytes) {
    return corrupt(fmt::format("header: directory of {} bytes in a file of {}", header.directory_bytes, file_bytes));
  }
  return {};
}

template <size_t N>
void write_array(ByteWriter& writer, const std::array<uint8_t, N>& bytes) {
  writer.write_bytes(std::as_bytes(std::span(bytes)));
}

}  // namespace

Bytes encode_header(const ArchiveHeader& header) {
  ByteWriter writer;
  write_array(writer, kHeaderMagic);
  writer.write(header.major);
  writer.write(header.minor);
  writer.write(static_cast<uint32_t>(kHeaderBytes));
  writer.write(header.required_features);
  writer.write(header.optional_features);
  writer.write_bytes(header.archive_id);
  writer.write(header.file_bytes);
  writer.write(kHeaderBytes);  // directory offset
  writer.write(header.directory_bytes);
  writer.write(header.directory_checksum);
  writer.write_zeros(kHeaderPaddingBytes);
  return seal(std::move(writer));
}

Result<ArchiveHeader> decode_header(ByteSpan head, uint64_t file_bytes) {
  KVPACK_RETURN_IF_ERROR(check_magic(head));
  if (head.size() < kHeaderBytes) {
    return truncated(fmt::format("{} bytes, the header alone has {}", head.size(), kHeaderBytes));
  }
  head = head.first(kHeaderBytes);
  ByteReader reader(head, kHeaderMagic.size());
  ArchiveHeader header;
  KVPACK_ASSIGN_OR_RETURN(header.major, reader.read<uint16_t>("major version"));
  KVPACK_ASSIGN_OR_RETURN(header.minor, reader.read<uint16_t>("minor version"));
  // Before the checksum: another major version may place it elsewhere.
  if (header.major != kArchiveMajor) {
    return unsupported(
        fmt::format("archive version {}.{}, this kvpack reads version {}", header.major, header.minor, kArchiveMajor));
  }
  KVPACK_RETURN_IF_ERROR(check_seal(head, "header"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t header_bytes, reader.read<uint32_t>("header bytes"));
  if (header_bytes != kHeaderBytes) {
    return corrupt(fmt::format("header of {} bytes, expected {}", header_bytes, kHeaderBytes));
  }
  KVPACK_ASSIGN_OR_RETURN(header.required_features, reader.read<uint64_t>("required features"));
  KVPACK_ASSIGN_OR_RETURN(header.optional_features, reader.read<uint64_t>("optional features"));
  KVPACK_RETURN_IF_ERROR(check_features(header.required_features));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan id, reader.take(header.archive_id.size(), "archive id"));
  std::copy(id.begin(), id.end(), header.archive_id.begin());
  KVPACK_ASSIGN_OR_RETURN(header.file_bytes, reader.read<uint64_t>("file bytes"));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t directory_offset, reader.read<uint64_t>("directory offset"));
  KVPACK_ASSIGN_OR_RETURN(header.directory_bytes, reader.read<uint64_t>("directory bytes"));
  KVPACK_ASSIGN_OR_RETURN(header.directory_checksum, reader.read<uint64_t>("directory checksum"));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan padding, reader.take(kHeaderPaddingBytes, "padding"));
  KVPACK_RETURN_IF_ERROR(check_zeros(padding, "header"));
  KVPACK_RETURN_IF_ERROR(check_sizes(header, directory_offset, file_bytes));
  return header;
}

Bytes encode_footer(const ArchiveHeader& header) {
  ByteWriter writer;
  write_array(writer, kFooterMagic);
  writer.write(header.directory_bytes);
  writer.write(header.directory_checksum);
  writer.write(header.file_bytes);
  writer.write_bytes(header.archive_id);
  writer.write_zeros(kFooterPaddingBytes);
  return seal(std::move(writer));
}

Status check_footer(ByteSpan footer, const ArchiveHeader& header) {
  if (footer.size() != kFooterBytes) return truncated(fmt::format("footer of {} bytes", footer.size()));
  if (!starts_with(footer, kFooterMagic)) {
    return corrupt(fmt::format("footer begins {}, expected 8b 4b 56 45 0d 0a 1a 0a", hex_of_first(footer)));
  }
  KVPACK_RETURN_IF_ERROR(check_seal(footer, "footer"));
  ByteReader reader(footer, kFooterMagic.size());
  ArchiveHeader found = header;
  KVPACK_ASSIGN_OR_RETURN(found.directory_bytes, reader.read<uint64_t>("directory bytes"));
  KVPACK_ASSIGN_OR_RETURN(found.directory_checksum, reader.read<uint64_t>("directory checksum"));
  KVPACK_ASSIGN_OR_RETURN(found.file_bytes, reader.read<uint64_t>("file bytes"));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan id, reader.take(found.archive_id.size(), "archive id"));
  std::copy(id.begin(), id.end(), found.archive_id.begin());
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan padding, reader.take(kFooterPaddingBytes, "padding"));
  KVPACK_RETURN_IF_ERROR(check_zeros(padding, "footer"));
  if (found == header) return {};
  return corrupt(
      fmt::format("footer disagrees with the header: directory of {} bytes, xxh3 {:016x}, file of {} bytes; "
                  "header says {}, {:016x}, {}",
                  found.directory_bytes, found.directory_checksum, found.file_bytes, header.directory_bytes,
                  header.directory_checksum, header.file_bytes));
}

}  // namespace kvpack
