// SPDX-License-Identifier: Apache-2.0
// Lossless coding of stored values, bit-exact for every input: exponents are modelled by channel, what else a value has
// is kept or compressed as planes of bytes.
//
//   u8 coding    0: planes only; 1: exponents, then the other planes (f16, bf16, f32)
//   1:           varint bytes, exponents (exponents.h)
//   planes       varint stored_bytes (0: the plane is kept as it is), then the bytes: a zstd frame
//
// Elements of f16, bf16 and f32 are rotated left by one bit, so that the exponent is on top. Coding 0 then has one
// plane per byte, low first. Coding 1 takes the exponents (8 bits; f16: 5, and 3 bits of mantissa) away and has planes
// of the bytes below. Quantized types have plane 0: the blocks' scales (and minima), plane 1: their packed values.
#pragma once

#include "formats/bytes.h"
#include "formats/kv_tensor.h"
#include "formats/result.h"

namespace kvpack {

// `rows`: whole elements or blocks of `dtype`, rows of `channels` values.
Result<Bytes> encode_lossless(ByteSpan rows, DType dtype, uint32_t channels);
// Exactly rows.size() bytes come back. `in` must be used up.
Status decode_lossless(ByteReader& in, DType dtype, uint32_t channels, MutableByteSpan rows);

}  // namespace kvpack
