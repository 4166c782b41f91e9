// SPDX-License-Identifier: Apache-2.0
// Class bytes of a tile's components, coded against the plane's reference class, bits from the lowest up:
//
//   0                   as the reference (dead if that is dead)
//   1 0 + 3 bits n      reference +- (1 + n / 2), minus if n is odd   (only if the reference is alive)
//   1 1 0               dead at this level
//   1 1 1 + 8 bits      the class byte itself
//
// A component that is dead at one level gets a code again at the next; one that is alive keeps its class.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

int class_code_bits(uint8_t class_byte, uint8_t reference);

class ClassWriter {
 public:
  void put(uint8_t class_byte, uint8_t reference);
  Bytes finish();

 private:
  void put_bits(uint32_t value, int count);
  Bytes bytes_;
  uint32_t pending_ = 0;
  int pending_bits_ = 0;
};

class ClassReader {
 public:
  explicit ClassReader(ByteSpan bytes) : bytes_(bytes) {}
  Result<uint8_t> next(uint8_t reference);
  // Takes a code that says "as the reference"; false, and nothing is taken, if the next one says something else.
  bool take_reference() {
    if (bit_ / 8 >= bytes_.size() || ((static_cast<uint32_t>(bytes_[bit_ / 8]) >> (bit_ % 8)) & 1u) != 0) return false;
    ++bit_;
    return true;
  }
  // Corrupt if whole bytes or set bits are left over.
  Status finish() const;

 private:
  Result<uint32_t> take_bits(int count);
  ByteSpan bytes_;
  uint64_t bit_ = 0;
};

}  // namespace kvpack
