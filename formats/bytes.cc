// SPDX-License-Identifier: Apache-2.0
#include "formats/bytes.h"

#include <fmt/format.h>

namespace kvpack {

Result<ByteSpan> ByteReader::take(uint64_t count, std::string_view what) {
  if (count > remaining()) {
    return truncated(fmt::format("{} at offset {} needs {} bytes, {} are left", what, offset_, count, remaining()));
  }
  ByteSpan view = bytes_.subspan(offset_, count);
  offset_ += count;
  return view;
}

Result<uint64_t> ByteReader::read_varint(std::string_view what) {
  const uint64_t start = offset_;
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    KVPACK_ASSIGN_OR_RETURN(uint8_t byte, read<uint8_t>(what));
    const uint64_t digit = byte & 0x7f;
    if (shift == 63 && digit > 1) break;
    value |= digit << shift;
    if ((byte & 0x80) == 0) {
      if (byte == 0 && shift > 0) break;
      return value;
    }
  }
  return corrupt(fmt::format("{} at offset {}: not a shortest-form 64-bit varint", what, start));
}

Result<int64_t> ByteReader::read_signed_varint(std::string_view what) {
  KVPACK_ASSIGN_OR_RETURN(uint64_t folded, read_varint(what));
  return static_cast<int64_t>(folded >> 1) ^ -static_cast<int64_t>(folded & 1);
}

void ByteWriter::write_varint(uint64_t value) {
  while (value >= 0x80) {
    write(static_cast<uint8_t>(value | 0x80));
    value >>= 7;
  }
  write(static_cast<uint8_t>(value));
}

void ByteWriter::write_signed_varint(int64_t value) {
  write_varint((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
}

}  // namespace kvpack
