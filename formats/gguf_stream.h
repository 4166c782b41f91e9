// SPDX-License-Identifier: Apache-2.0
// The header of a GGUF as a stream: bounded pieces of the file, hashed as they are consumed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "formats/byte_io.h"
#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

class GgufStream {
 public:
  // Fails with `limit` once more than `max_bytes` would be consumed.
  GgufStream(ByteSource& source, uint64_t max_bytes);
  ~GgufStream();
  GgufStream(const GgufStream&) = delete;
  GgufStream& operator=(const GgufStream&) = delete;

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return source_.size() - offset_; }

  template <typename T>
  requires std::is_arithmetic_v<T> Result<T> read(std::string_view what) {
    T value;
    KVPACK_RETURN_IF_ERROR(read_into({reinterpret_cast<std::byte*>(&value), sizeof value}, what));
    return value;
  }
  Status read_into(MutableByteSpan out, std::string_view what);
  Status skip(uint64_t count, std::string_view what);
  // XXH3-128 of everything consumed so far.
  std::string hash() const;

 private:
  struct HashState;
  Status check(uint64_t count, std::string_view what) const;
  // The loaded bytes at offset_, at least one; loads the next piece when there are none.
  Result<ByteSpan> loaded();
  void consume(ByteSpan bytes);

  ByteSource& source_;
  uint64_t max_bytes_;
  uint64_t offset_ = 0;
  uint64_t piece_offset_ = 0;  // file offset of piece_[0]
  Bytes piece_;
  std::unique_ptr<HashState> hash_;
};

}  // namespace kvpack
