// SPDX-License-Identifier: Apache-2.0
// Bounds-checked little-endian reading and writing. A reader never moves past its end: a short read is a
// `truncated` error that names the field, the offset, what was needed and what was left.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/result.h"

namespace kvpack {

static_assert(std::endian::native == std::endian::little,
              "kvpack reads and writes little-endian formats on little-endian machines only");

using Bytes = std::vector<std::byte>;
using ByteSpan = std::span<const std::byte>;
using MutableByteSpan = std::span<std::byte>;

inline ByteSpan as_byte_span(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteSpan bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// a * b and a + b with overflow reported; sizes from files go through these.
inline bool checked_mul(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_mul_overflow(a, b, out); }
inline bool checked_add(uint64_t a, uint64_t b, uint64_t* out) { return !__builtin_add_overflow(a, b, out); }

class ByteReader {
 public:
  explicit ByteReader(ByteSpan bytes, uint64_t offset = 0) : bytes_(bytes), offset_(offset) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }
  bool at_end() const { return remaining() == 0; }

  // The next `count` bytes as a view into the input.
  Result<ByteSpan> take(uint64_t count, std::string_view what);

  template <typename T>
  requires std::is_arithmetic_v<T> Result<T> read(std::string_view what) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan raw, take(sizeof(T), what));
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  // LEB128, at most 10 bytes, shortest form only.
  Result<uint64_t> read_varint(std::string_view what);
  // Zigzag LEB128.
  Result<int64_t> read_signed_varint(std::string_view what);

 private:
  ByteSpan bytes_;
  uint64_t offset_;
};

class ByteWriter {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void write(T value) { write_bytes(std::as_bytes(std::span(&value, 1))); }
  void write_bytes(ByteSpan bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void reserve(size_t more) { bytes_.reserve(bytes_.size() + more); }
  void write_zeros(size_t count) { bytes_.resize(bytes_.size() + count); }
  void write_varint(uint64_t value);
  void write_signed_varint(int64_t value);

  void cut(size_t size) { bytes_.resize(size); }  // drops what was written behind

  size_t size() const { return bytes_.size(); }
  const Bytes& bytes() const { return bytes_; }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

}  // namespace kvpack
