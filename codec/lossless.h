// SPDX-License-Identifier: Apache-2.0
// Lossless coding of stored values, bit-exact for every input: exponents are modelled by channel, what else a value has
// is kept or compressed as planes of bytes; rows that repeat are named.
//
//   u8 coding    0: planes only; 1: exponents, then the other planes (f16, bf16, f32); 2: repeated rows
//   1:           varint bytes, exponents (exponents.h)
//   2:           varint rows that do not repeat, a bit per row (1: it repeats), then for each row that does the number
//                of the one it repeats, counting those that do not; then coding 0 or 1 of the latter
//   planes       varint stored_bytes (0: the plane is kept as it is), then the bytes: a zstd frame
//
// Elements of f16, bf16 and f32 are rotated left by one bit, so that the exponent is on top. Coding 0 then has one
// plane per byte, low first. Coding 1 takes the exponents (8 bits; f16: 5, and 3 bits of mantissa) away and has planes
// of the bytes below. Quantized types have plane 0: the blocks' scales (and minima), plane 1: their packed values.
#pragma once

#include <array>
#include <vector>

#include "codec/exponents.h"
#include "formats/bytes.h"
#include "formats/kv_tensor.h"
#include "formats/result.h"

namespace kvpack {

enum LosslessCoding : uint8_t { kLosslessPlanes = 0, kLosslessModelled = 1, kLosslessRepeats = 2 };

// Bytes at the front of a quantized block that are scales: f16 d, and for the *_1 types f16 m.
inline uint32_t scale_bytes_of(DType dtype) { return dtype == DType::kQ4_1 || dtype == DType::kQ5_1 ? 4 : 2; }
inline int mantissa_bits_on_top(DType dtype) { return dtype == DType::kF16 ? 3 : 0; }

// Appends `rows`: whole elements or blocks of `dtype`, rows of `channels` values. Whether it is coding 2, which only
// readers that know kRepeatedRowsFeature understand.
Result<bool> encode_lossless(ByteSpan rows, DType dtype, uint32_t channels, ByteWriter& out);
// Exactly rows.size() bytes come back. `in` must be used up.
Status decode_lossless(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows);

// The same in parts, for several tiles whose entropy coders run in lockstep: open, read_groups, finish.
class LosslessReader {
 public:
  // `in` must be used up; its bytes and `rows` must outlive the reader's use.
  Status open(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows);
  // All that open() left to read, of all that are still well. [reader]
  static void read_groups(std::span<LosslessReader* const> readers, std::span<Status> status);
  Status finish();

 private:
  Status read_repeats(ByteReader& in);
  Status open_modelled(ByteReader& in);
  void join_group();

  DType dtype_ = DType::kF16;
  uint32_t channels_ = 0;
  uint32_t tokens_ = 0;  // whose exponents are modelled
  uint32_t next_ = 0;    // of them
  MutableByteSpan rows_;
  MutableByteSpan into_;          // rows_, or unique_
  std::vector<uint32_t> source_;  // [row] of rows_ among those of unique_; empty if none repeats
  Bytes unique_;
  ExponentReader exponents_;
  std::array<ByteSpan, 3> planes_;
  std::array<Bytes, 3> room_;        // of planes that were compressed
  std::vector<uint8_t> by_channel_;  // of a group, [channel][32]
  std::vector<uint8_t> tops_;        // [token][channel]
  std::vector<uint32_t> words_;      // the group's elements
};

}  // namespace kvpack
